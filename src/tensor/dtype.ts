// The number formats of safetensors files and the three of them that weights come in. Hosts are little-endian, as
// the files are.

/** Bits an element, for every format that safetensors defines. */
export const dtypeBits = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const satisfies Record<string, number>

/** The name of a number format, as safetensors spells it. */
export type DType = keyof typeof dtypeBits

/** The formats that weights are computed from. */
export type FloatDType = 'F32' | 'F16' | 'BF16'

/** Whether `name` is a number format of safetensors. */
export function isDType(name: unknown): name is DType {
  return typeof name === 'string' && Object.hasOwn(dtypeBits, name)
}

/** Whether weights of this format can be read. */
export function isFloatDType(dtype: DType): dtype is FloatDType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16'
}

/** Bytes of a tensor; null when they are no whole number of bytes, or more than a double counts exactly. */
export function byteLength(dtype: DType, shape: readonly number[]): number | null {
  // Found before multiplying, so that an empty tensor's other sizes cannot overflow.
  if (shape.includes(0)) return 0
  let bits: number = dtypeBits[dtype]
  for (const size of shape) {
    bits *= size
    if (!Number.isSafeInteger(bits)) return null
  }
  return bits % 8 === 0 ? bits / 8 : null
}

/** The elements of `bytes` as fp32, exact for all three formats; `out` is filled and returned where it is given. */
export function toF32(dtype: FloatDType, bytes: Uint8Array, out?: Float32Array): Float32Array {
  const count = (bytes.byteLength * 8) / dtypeBits[dtype]
  const result = out ?? new Float32Array(count)
  if (!Number.isInteger(count) || result.length !== count)
    throw new RangeError(`toF32: ${bytes.byteLength} bytes of ${dtype} do not fill ${result.length} elements`)
  // Plain loops: twice as fast as TypedArray.set on V8 13.
  if (dtype === 'F32') result.set(elements(Float32Array, bytes))
  else if (dtype === 'F16') {
    const source = elements(Float16Array, bytes)
    for (let index = 0; index < count; index++) result[index] = source[index]
  } else {
    const source = elements(Uint16Array, bytes)
    const bits = new Uint32Array(result.buffer, result.byteOffset, count)
    for (let index = 0; index < count; index++) bits[index] = source[index] << 16
  }
  return result
}

/**
 * Round fp32 to fp16, ties to even, into `out`. Returns how many finite values became infinite (above 65,504): it is
 * for the caller to say whose they are.
 */
export function f32ToF16(source: Float32Array, out: Uint16Array): number {
  const halves = new Float16Array(out.buffer, out.byteOffset, source.length)
  let overflows = 0
  for (let index = 0; index < source.length; index++) {
    const value = source[index]
    halves[index] = value
    // 65,520 is the first value that rounds to 65,536, which fp16 does not have.
    if ((value >= 65_520 || value <= -65_520) && Number.isFinite(value)) overflows++
  }
  return overflows
}

/** Round fp32 to bf16, ties to even, into `out`; returns how many finite values became infinite. */
export function f32ToBf16(source: Float32Array, out: Uint16Array): number {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length)
  let overflows = 0
  for (let index = 0; index < bits.length; index++) {
    const word = bits[index]
    if ((word & 0x7fff_ffff) > 0x7f80_0000) {
      // Rounding could carry a NaN's fraction into the exponent: keep its top bits and set the quiet bit.
      out[index] = (word >>> 16) | 0x0040
      continue
    }
    const rounded = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
    out[index] = rounded
    if ((rounded & 0x7fff) === 0x7f80 && (word & 0x7fff_ffff) < 0x7f80_0000) overflows++
  }
  return overflows
}

type Elements = Float32Array | Float16Array | Uint16Array

/** `bytes` seen as elements; copied only where they do not lie on an element's boundary. */
function elements<T extends Elements>(
  kind: { new (buffer: ArrayBufferLike, byteOffset: number, length: number): T; BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): T {
  const size = kind.BYTES_PER_ELEMENT
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice()
  return new kind(aligned.buffer, aligned.byteOffset, bytes.byteLength / size)
}
