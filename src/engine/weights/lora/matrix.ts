// Products of row-major fp32 matrices, for changes of weights. They are computed once a LoRA and kept in the cache.

/** a (m, n) · b (n, p) → (m, p). */
export function matMul(a: Float32Array, b: Float32Array, [m, n, p]: readonly [number, number, number]): Float32Array {
  const result = new Float32Array(m * p)
  for (let row = 0; row < m; row++) {
    const start = row * p
    let inner = 0
    // Four at a time: the result is loaded and stored a quarter as often.
    for (; inner + 4 <= n; inner += 4) {
      const at = row * n + inner
      const [f0, f1, f2, f3] = [a[at], a[at + 1], a[at + 2], a[at + 3]]
      const b0 = inner * p
      const [b1, b2, b3] = [b0 + p, b0 + 2 * p, b0 + 3 * p]
      for (let c = 0; c < p; c++) result[start + c] += f0 * b[b0 + c] + f1 * b[b1 + c] + f2 * b[b2 + c] + f3 * b[b3 + c]
    }
    for (; inner < n; inner++) {
      const factor = a[row * n + inner]
      const from = inner * p
      for (let column = 0; column < p; column++) result[start + column] += factor * b[from + column]
    }
  }
  return result
}

/** (rows, columns) → (columns, rows). */
export function transposed(data: Float32Array, [rows, columns]: readonly [number, number]): Float32Array {
  const result = new Float32Array(data.length)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) result[column * rows + row] = data[row * columns + column]
  return result
}

/** a ⊗ b of a (m, n) and b (p, q), the latter with `inner` values an element → (m·p, n·q, inner). */
export function kronecker(
  a: Float32Array,
  [m, n]: readonly [number, number],
  b: Float32Array,
  [p, q, inner]: readonly [number, number, number],
): Float32Array {
  const result = new Float32Array(a.length * b.length)
  const width = q * inner
  let at = 0
  for (let i = 0; i < m; i++)
    for (let k = 0; k < p; k++)
      for (let j = 0; j < n; j++) {
        const factor = a[i * n + j]
        const from = k * width
        for (let x = 0; x < width; x++) result[at++] = factor * b[from + x]
      }
  return result
}

/** The three-way product Σ_mn core[m, n, …]·left[o, m]·right[n, i] of left (O, r), core (r, s, K), right (s, I) → (O, I, K). */
export function tuckerProduct(
  left: Float32Array,
  core: Float32Array,
  right: Float32Array,
  { out, ranks: [r, s], input, kernel }: TuckerSizes,
): Float32Array {
  const half = matMul(left, core, [out, r, s * kernel]) // (O, s, K)
  const result = new Float32Array(out * input * kernel)
  for (let o = 0; o < out; o++)
    for (let n = 0; n < s; n++) {
      const from = (o * s + n) * kernel
      for (let i = 0; i < input; i++) {
        const factor = right[n * input + i]
        const to = (o * input + i) * kernel
        for (let k = 0; k < kernel; k++) result[to + k] += factor * half[from + k]
      }
    }
  return result
}

export type TuckerSizes = {
  readonly out: number
  readonly ranks: readonly [number, number]
  readonly input: number
  /** Elements of the kernel. */
  readonly kernel: number
}
