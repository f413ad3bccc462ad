import type { PriceList } from './price-list.ts'

/** What decides a picture order's price. */
export type PriceInput = {
  readonly steps: number
  /** Pixels. */
  readonly width: number
  readonly height: number
  /** Whether the sampler is a premium one. */
  readonly premium: boolean
  /** Whether a checkpoint, LoRA, textual inversion or VAE is asked for. */
  readonly custom: boolean
  readonly controlnet: boolean
  readonly photoMerge: boolean
  /** How many pictures. */
  readonly images: number
}

/**
 * Price of an order in micro-dollars: base × steps/30 × pixels/1024² × (2 for a premium sampler), rounded half up, for each
 * picture. Of several bases the dearest counts.
 */
export function priceOf(prices: PriceList, input: PriceInput): bigint {
  const { image } = prices
  const base = Math.max(
    ...(input.custom ? [image.customMicros] : [image.sdxlMicros]),
    ...(input.controlnet ? [image.controlnetMicros] : []),
    ...(input.photoMerge ? [image.photoMergeMicros] : []),
  )
  const factors = [base, input.steps, input.width, input.height, input.premium ? image.premiumPerThousand : 1_000]
  const numerator = factors.reduce((product, factor) => product * BigInt(factor), 1n)
  const denominator = BigInt(image.steps) * BigInt(image.pixels) * 1_000n
  const perImage = (2n * numerator + denominator) / (2n * denominator)
  return perImage * BigInt(input.images)
}
