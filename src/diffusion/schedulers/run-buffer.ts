/** An array that a run writes again and again: made at the first call, for latents of `length` values. */
export function runBuffer(): (length: number) => Float32Array {
  let buffer = new Float32Array(0)
  return (length) => {
    if (buffer.length !== length) buffer = new Float32Array(length)
    return buffer
  }
}
