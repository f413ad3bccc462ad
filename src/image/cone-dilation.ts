// Soft borders: a mask that falls off linearly round its white parts.

/**
 * The grey dilation of `values` (0..1, rows of `width`) by a cone: at each pixel the largest of value - distance/`radius`
 * over all pixels, at least 0. Distances are octagonal (steps of 1 and √2), at most 8 % above Euclid's; two passes over
 * the picture find them (Borgefors, Computer Vision, Graphics, and Image Processing 34, 1986). Works in place.
 */
export function dilateByCone(values: Float32Array, width: number, radius: number): Float32Array {
  const height = values.length / width
  const straight = 1 / radius
  const diagonal = Math.SQRT2 / radius
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x
      let value = values[at]
      if (x > 0) value = Math.max(value, values[at - 1] - straight)
      if (y > 0) {
        value = Math.max(value, values[at - width] - straight)
        if (x > 0) value = Math.max(value, values[at - width - 1] - diagonal)
        if (x + 1 < width) value = Math.max(value, values[at - width + 1] - diagonal)
      }
      values[at] = value
    }
  }
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--) {
      const at = y * width + x
      let value = values[at]
      if (x + 1 < width) value = Math.max(value, values[at + 1] - straight)
      if (y + 1 < height) {
        value = Math.max(value, values[at + width] - straight)
        if (x > 0) value = Math.max(value, values[at + width - 1] - diagonal)
        if (x + 1 < width) value = Math.max(value, values[at + width + 1] - diagonal)
      }
      values[at] = value
    }
  }
  return values
}
