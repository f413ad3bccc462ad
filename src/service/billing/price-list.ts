// Prices as data. The default is OctoAI's last published list; an operator's file replaces it.
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { AppError } from '../../errors.ts'

const micros = z.int().min(0).max(1_000_000_000).describe('Micro-dollars: 4000 is $0.004.')
const perThousand = z.int().min(0).max(1_000_000)

/** All prices; a file of an operator has every key. */
export const priceListSchema = z.strictObject({
  image: z
    .strictObject({
      sdxlMicros: micros.describe('The base model alone.'),
      customMicros: micros.describe('With a checkpoint, LoRA, textual inversion or VAE.'),
      controlnetMicros: micros,
      photoMergeMicros: micros,
      steps: z.int().min(1).max(200).describe('Steps that the prices are for; they grow with the steps.'),
      pixels: z
        .int()
        .min(1)
        .max(4096 * 4096)
        .describe('Pixels that the prices are for; they grow with the pixels.'),
      premiumPerThousand: perThousand.describe('What a premium sampler costs, in thousandths of an ordinary one.'),
    })
    .describe('One picture.'),
  tune: z.strictObject({ micros, steps: z.int().min(1).max(2000) }).describe('A fine-tuning of that many steps.'),
  storage: z
    .strictObject({ microsPerGbMonth: micros, freeGb: z.int().min(0).max(1_000_000) })
    .describe('Assets above what is free.'),
})

export type PriceList = z.infer<typeof priceListSchema>

/** What OctoAI charged when it was switched off, in October 2024. */
export const defaultPrices: PriceList = {
  image: {
    sdxlMicros: 4_000,
    customMicros: 8_000,
    controlnetMicros: 8_000,
    photoMergeMicros: 15_000,
    steps: 30,
    pixels: 1024 * 1024,
    premiumPerThousand: 2_000,
  },
  tune: { micros: 250_000, steps: 500 },
  storage: { microsPerGbMonth: 50_000, freeGb: 50 },
}

/** Read an operator's price list, JSON. Throws `bad_argument` that names the file and the key. */
export async function loadPriceList(file: string): Promise<PriceList> {
  const wrong = (reason: string, cause: unknown): AppError =>
    new AppError('bad_argument', `price list ${file}: ${reason}`, { cause })
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) throw wrong(`no JSON (${error.message})`, error)
    throw wrong(`cannot be read (${(error as NodeJS.ErrnoException).code})`, error)
  }
  const parsed = priceListSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw wrong(`${issue.path.join('.') || 'the whole'}: ${issue.message}`, parsed.error)
}
