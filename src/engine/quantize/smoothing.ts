// Smoothing factors of a layer's input as text: one byte a channel, in base64. A factor need not be exact, since what the
// input is divided by its weights are multiplied with; and a million of numbers would take a second to be read.

/**
 * Positive factors, one an input channel: base64 of signed bytes, each of which is the factor's logarithm to base 2 in
 * eighths, so that a factor is 2^−16 to 2^15.875.
 */
export type Smoothing = string

/** The nearest factors that a text can tell. */
export function smoothingOf(factors: Float32Array): Smoothing {
  const eighths = Int8Array.from(factors, (factor) => Math.min(127, Math.max(-128, Math.round(8 * Math.log2(factor)))))
  return Buffer.from(eighths.buffer).toString('base64')
}

/** What each byte tells, 0 first: a million of powers would take a fifth of a second. */
const factorOfByte = Float32Array.from({ length: 256 }, (_, byte) => 2 ** (((byte << 24) >> 24) / 8))
const inverseOfByte = factorOfByte.map((factor) => 1 / factor)

/** The factors that a text tells, one an input channel. */
export function factorsOf(smoothing: Smoothing): Float32Array {
  return told(smoothing, factorOfByte)
}

/** 1 over each of the factors that a text tells. */
export function inverseFactorsOf(smoothing: Smoothing): Float32Array {
  return told(smoothing, inverseOfByte)
}

function told(smoothing: Smoothing, ofByte: Float32Array): Float32Array {
  const bytes = Buffer.from(smoothing, 'base64')
  const values = new Float32Array(bytes.length)
  for (let channel = 0; channel < values.length; channel++) values[channel] = ofByte[bytes[channel]]
  return values
}

/** Whether a value that was read is such a text. */
export function isSmoothing(value: unknown): value is Smoothing {
  return typeof value === 'string' && /^(?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{2}==|[A-Za-z\d+/]{3}=)?$/.test(value)
}
