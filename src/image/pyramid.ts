// Guessing what is not known of a plane from what is, smoother the further away: averages go down a pyramid of halves, and
// each level fills its holes from the one below it (Gortler et al., "The Lumigraph", 1996, §3.4.3, pull and push).

/** Values of which those with weight 1 are known and those with weight 0 are not. */
export type Plane = {
  readonly width: number
  readonly height: number
  readonly values: Float32Array
  readonly weights: Float32Array
}

/** Fill, in place, the values that nothing is known of; where nothing at all is known, with `otherwise`. */
export function fillUnknown(plane: Plane, otherwise: number): void {
  if (!plane.weights.includes(1)) {
    plane.values.fill(otherwise)
    return
  }
  const levels = [plane]
  for (let level = plane; level.weights.includes(0);) {
    level = halved(level)
    levels.push(level)
  }
  for (let index = levels.length - 2; index >= 0; index--) fillFrom(levels[index], levels[index + 1])
}

/** Half of the size, rounded up: means of the known values of every 2 × 2. */
export function halved({ width, height, values, weights }: Plane): Plane {
  const half: Plane = {
    width: Math.ceil(width / 2),
    height: Math.ceil(height / 2),
    values: new Float32Array(Math.ceil(width / 2) * Math.ceil(height / 2)),
    weights: new Float32Array(Math.ceil(width / 2) * Math.ceil(height / 2)),
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = (y >> 1) * half.width + (x >> 1)
      half.values[to] += weights[y * width + x] * values[y * width + x]
      half.weights[to] += weights[y * width + x]
    }
  }
  for (let i = 0; i < half.values.length; i++) {
    if (half.weights[i] === 0) continue
    half.values[i] /= half.weights[i]
    half.weights[i] = 1
  }
  return half
}

/** Bilinear samples of the coarser level for the pixels that nothing is known of. */
function fillFrom(fine: Plane, coarse: Plane): void {
  for (let y = 0; y < fine.height; y++) {
    for (let x = 0; x < fine.width; x++) {
      const at = y * fine.width + x
      if (fine.weights[at] === 0) fine.values[at] = bilinear(coarse, (x - 0.5) / 2, (y - 0.5) / 2)
    }
  }
}

/** The value at (x, y) between the four round it; (0, 0) is the middle of the first. */
export function bilinear({ width, height, values }: Omit<Plane, 'weights'>, x: number, y: number): number {
  const [left, top] = [Math.max(0, Math.floor(x)), Math.max(0, Math.floor(y))]
  const [right, bottom] = [Math.min(width - 1, left + 1), Math.min(height - 1, top + 1)]
  const [u, v] = [Math.max(0, x - left), Math.max(0, y - top)]
  const upper = values[top * width + left] * (1 - u) + values[top * width + right] * u
  const lower = values[bottom * width + left] * (1 - u) + values[bottom * width + right] * u
  return upper * (1 - v) + lower * v
}
