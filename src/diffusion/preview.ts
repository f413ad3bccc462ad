// A cheap look at latents: each becomes a small patch of colours by a linear map, which is fitted once to what the
// model's own VAE makes of a few patterns.
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { zeros, type Tensor } from '#tensor/tensor.ts'
import { encodePicture } from './encode-picture.ts'
import { scaleLatents } from './latent-scale.ts'
import type { Networks } from './networks.ts'
import type { KeptArea } from './prepare-latents.ts'
import type { Scheduler } from './schedulers/scheduler.ts'

/** Scaled latents → colours. */
export type PreviewProjection = {
  readonly latentChannels: number
  /** A latent becomes patch × patch pixels. */
  readonly patch: number
  /** One row a value of a patch, in the order (channel, row, column): a weight a latent channel, and a constant. */
  readonly rows: readonly Float64Array[]
}

/** Tells what clean latents (1, C, h, w) a model's input and output at an evaluation point at; each call overwrites the last. */
export type CleanGuess = (
  modelInput: Float32Array,
  modelOutput: Float32Array,
  index: number,
  kept: KeptArea | null,
) => Tensor

/** The longest edge of a preview, in pixels. */
export const previewEdge = 256

/** Pixels that one pixel of a preview stands for, at least; SDXL's VAE makes 8 pixels of a latent. */
const pixelsAPreviewPixel = 8
/** Rows and columns of latents in a pattern, and how many fields of colour each pattern has along an edge. */
const patternLatents = 16
const patternFields = [2, 3, 5, 9]

/** Fit the projection for a VAE by least squares: its encoder's latents of colour patterns against the patterns. */
export async function fitPreview(
  networks: Pick<Networks, 'vaeEncoder'>,
  config: VaeConfig,
): Promise<PreviewProjection> {
  const factor = vaeScaleFactor(config)
  const patch = Math.max(1, Math.floor(factor / pixelsAPreviewPixel))
  const channels = config.latentChannels
  const values = 3 * patch * patch
  const normal = Array.from({ length: channels + 1 }, () => new Float64Array(channels + 1))
  const right = Array.from({ length: values }, () => new Float64Array(channels + 1))
  const generator = new TorchGenerator(0)
  for (const fields of patternFields) {
    const pattern = colourPattern(generator, fields, patternLatents * factor)
    const whole = { ...networks, encodeEdgeLimit: async () => null }
    const latents = scaleLatents(config, (await encodePicture(whole, config, pattern)).mean)
    const plane = patternLatents * patternLatents
    for (let at = 0; at < plane; at++) {
      const inputs = [...Array.from({ length: channels }, (_, c) => latents.data[c * plane + at]), 1]
      const targets = patchOf(pattern, Math.floor(at / patternLatents), at % patternLatents, factor, patch)
      inputs.forEach((a, i) => inputs.forEach((b, j) => (normal[i][j] += a * b)))
      targets.forEach((target, value) => inputs.forEach((a, i) => (right[value][i] += a * target)))
    }
  }
  // A trace of damping: a VAE of which a channel never answers still has a solution.
  normal.forEach((row, i) => (row[i] += 1e-6 * (normal[channels][channels] + row[i])))
  return { latentChannels: channels, patch, rows: right.map((wanted) => solve(normal, wanted)) }
}

/** Scaled latents (1, C, h, w) → (3, H, W), about −1..1, no edge longer than {@link previewEdge}. */
export function projectLatents({ patch, rows }: PreviewProjection, latents: Tensor): Tensor {
  const [, channels, height, width] = latents.shape as [number, number, number, number]
  const stride = Math.ceil((Math.max(height, width) * patch) / previewEdge)
  const [outHeight, outWidth] = [Math.ceil((height * patch) / stride), Math.ceil((width * patch) / stride)]
  const image = zeros([3, outHeight, outWidth])
  const plane = height * width
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < outHeight; y++) {
      const [latentRow, placeRow] = [Math.floor((y * stride) / patch), (y * stride) % patch]
      const to = (channel * outHeight + y) * outWidth
      for (let x = 0; x < outWidth; x++) {
        const at = latentRow * width + Math.floor((x * stride) / patch)
        const row = rows[(channel * patch + placeRow) * patch + ((x * stride) % patch)]
        let value = row[channels]
        for (let c = 0; c < channels; c++) value += row[c] * latents.data[c * plane + at]
        image.data[to + x] = value
      }
    }
  }
  return image
}

/** A guess for one run. `scheduler` is a run of its own, of which only noise levels are read; `shape` is the latents'. */
export function cleanGuess(
  scheduler: Scheduler,
  predictionType: SchedulerConfig['predictionType'],
  shape: readonly number[],
): CleanGuess {
  const clean = zeros(shape)
  return (modelInput, modelOutput, index, kept) => {
    // The model's input is signal · clean + spread · noise, with squares that sum to 1, for every family of samplers.
    const signal = Math.max(signalAt(scheduler, index), 1e-3)
    const spread = Math.sqrt(Math.max(0, 1 - signal * signal))
    const { data } = clean
    for (let i = 0; i < data.length; i++) {
      const output = modelOutput[i]
      if (predictionType === 'epsilon') data[i] = (modelInput[i] - spread * output) / signal
      else if (predictionType === 'v_prediction') data[i] = signal * modelInput[i] - spread * output
      else data[i] = output
    }
    if (kept) for (let i = 0; i < data.length; i++) if (kept.mask[i % kept.mask.length] === 0) data[i] = kept.picture[i]
    return clean
  }
}

/** The part of the clean latents in the model's input, as the scheduler's own functions show it. */
function signalAt(scheduler: Scheduler, index: number): number {
  const [one, none, out] = [Float32Array.of(1), Float32Array.of(0), new Float32Array(1)]
  scheduler.addNoise(one, none, index, out)
  const [part] = out
  scheduler.scaleModelInput(one, index, out)
  return part * out[0]
}

/** A picture (1, 3, edge, edge) of random colours that run into each other, in `fields` × `fields` places. */
function colourPattern(generator: TorchGenerator, fields: number, edge: number): Tensor {
  const colours = generator.randn([3, fields, fields])
  const image = zeros([1, 3, edge, edge])
  const at = (channel: number, y: number, x: number): number =>
    colours.data[(channel * fields + Math.min(y, fields - 1)) * fields + Math.min(x, fields - 1)]
  const scale = (fields - 1) / (edge - 1)
  for (let channel = 0; channel < 3; channel++)
    for (let y = 0; y < edge; y++)
      for (let x = 0; x < edge; x++) {
        const [row, column] = [Math.floor(y * scale), Math.floor(x * scale)]
        const [down, right] = [y * scale - row, x * scale - column]
        const above = at(channel, row, column) * (1 - right) + at(channel, row, column + 1) * right
        const below = at(channel, row + 1, column) * (1 - right) + at(channel, row + 1, column + 1) * right
        const value = above * (1 - down) + below * down
        image.data[(channel * edge + y) * edge + x] = Math.min(Math.max(value, -1), 1)
      }
  return image
}

/** Mean colours of the parts of the pixels that one latent stands for, in the order of a projection's rows. */
function patchOf(image: Tensor, row: number, column: number, factor: number, patch: number): number[] {
  const edge = image.shape[2]
  const size = factor / patch
  const means: number[] = []
  for (let channel = 0; channel < 3; channel++)
    for (let y = 0; y < patch; y++)
      for (let x = 0; x < patch; x++) {
        let sum = 0
        for (let dy = 0; dy < size; dy++)
          for (let dx = 0; dx < size; dx++) {
            const [pixelY, pixelX] = [row * factor + y * size + dy, column * factor + x * size + dx]
            sum += image.data[(channel * edge + pixelY) * edge + pixelX]
          }
        means.push(sum / (size * size))
      }
  return means
}

/** x of matrix · x = right for a symmetric positive matrix, by Gaussian elimination. */
function solve(matrix: readonly Float64Array[], right: Float64Array): Float64Array {
  const rows = matrix.map((row, i) => Float64Array.from([...row, right[i]]))
  const n = rows.length
  for (let pivot = 0; pivot < n; pivot++)
    for (let row = pivot + 1; row < n; row++) {
      const share = rows[row][pivot] / rows[pivot][pivot]
      for (let column = pivot; column <= n; column++) rows[row][column] -= share * rows[pivot][column]
    }
  const x = new Float64Array(n)
  for (let row = n - 1; row >= 0; row--) {
    let rest = rows[row][n]
    for (let column = row + 1; column < n; column++) rest -= rows[row][column] * x[column]
    x[row] = rest / rows[row][row]
  }
  return x
}
