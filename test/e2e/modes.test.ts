// Every way to make a picture, as the official client asks for it.
import { fileURLToPath } from 'node:url'
import { OctoAIClient, OctoAIError, type OctoAI } from '@octoai/sdk'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startServer, type RunningServer } from '../support/running-server.ts'

const tinyRefiner = fileURLToPath(new URL('../golden/mode-models/tiny-refiner', import.meta.url))

let server: RunningServer
let sdk: OctoAIClient

beforeAll(async () => {
  server = await startServer(['--refiner', tinyRefiner])
  const { token: apiKey, url } = server
  sdk = new OctoAIClient({ apiKey, environment: { default: url, imageGen: url, textGen: url } })
})
afterAll(() => server[Symbol.asyncDispose]())

const order = { prompt: 'a red apple', steps: 4, seed: 7, imageEncoding: 'png', useRefiner: false } as const

async function make(fields: Partial<OctoAI.imageGen.ImageGenerationRequest>): Promise<Buffer> {
  const { images } = await sdk.imageGen.generateSdxl({ ...order, ...fields })
  expect(images).toHaveLength(1)
  return Buffer.from(images[0].imageB64!, 'base64')
}

const size = 1024
/** A picture of one colour with another in its left half. */
async function halves(left: string, right: string): Promise<Buffer> {
  const half = await sharp({ create: { width: size / 2, height: size, channels: 3, background: left } })
    .png()
    .toBuffer()
  return sharp({ create: { width: size, height: size, channels: 3, background: right } })
    .composite([{ input: half, left: 0, top: 0 }])
    .png()
    .toBuffer()
}
const base64 = (bytes: Buffer): string => bytes.toString('base64')
const rightThird = { left: 700, top: 0, width: 324, height: size }
const pixelsOf = (png: Buffer, region = rightThird) => sharp(png).removeAlpha().extract(region).raw().toBuffer()

it('image to image begins at the picture: the weaker, the closer', async () => {
  const initImage = base64(await halves('red', 'navy'))
  const distance = async (strength: number): Promise<number> => {
    const [made, given] = await Promise.all([
      pixelsOf(await make({ initImage, strength })),
      pixelsOf(Buffer.from(initImage, 'base64')),
    ])
    return made.reduce((sum, value, at) => sum + (value - given[at]) ** 2, 0)
  }
  expect(await distance(0.25)).toBeLessThan(await distance(1))
})

it.each([
  ['inpainting', {}],
  ['inpainting in detail', { inpaintFullRes: true, inpaintFullResPadding: 16 }],
  ['outpainting', { outpainting: true }],
])('%s leaves what is not masked as it was, to the bit', async (_name, fields) => {
  const given = await halves('red', 'navy')
  const mask = await halves('white', 'black')
  const made = await make({ initImage: base64(given), maskImage: base64(mask), ...fields })
  expect(await pixelsOf(made)).toEqual(await pixelsOf(given))
  const painted = { left: 64, top: 64, width: 256, height: 256 }
  expect(await pixelsOf(made, painted)).not.toEqual(await pixelsOf(given, painted))
})

it('the refiner does the last part', async () => {
  const { images: plain } = await sdk.imageGen.generateSdxl(order)
  const { images: refined } = await sdk.imageGen.generateSdxl({ ...order, useRefiner: true, highNoiseFrac: 0.5 })
  const { images: whole } = await sdk.imageGen.generateSdxl({ ...order, useRefiner: true, highNoiseFrac: 1 })
  expect(refined[0].imageB64).not.toBe(plain[0].imageB64)
  expect(whole[0].imageB64).toBe(plain[0].imageB64)
})

it('styles, weights, second prompts and clip_skip change the picture', async () => {
  const wishes: readonly Partial<OctoAI.imageGen.ImageGenerationRequest>[] = [
    {},
    { stylePreset: 'anime' },
    { prompt: 'a (red:1.4) apple' },
    { prompt2: 'a blue pear' },
    { negativePrompt: 'green' },
    { negativePrompt: 'green', negativePrompt2: 'yellow' },
    { clipSkip: 2 },
  ]
  const pictures = await Promise.all(wishes.map(async (fields) => base64(await make(fields))))
  expect(new Set(pictures).size).toBe(pictures.length)
})

it.each([
  ['mask_image', async () => ({ maskImage: base64(await halves('white', 'black')) })],
  ['strength', async () => ({ initImage: base64(await halves('red', 'navy')), strength: 0 })],
  ['init_image', () => ({ initImage: 'not base64!' })],
  ['init_image', () => ({ initImage: base64(Buffer.from('GIF89a')) })],
  ['init_image', async () => ({ initImage: base64(await bomb()) })],
  ['num_images', () => ({ numImages: 17 })],
  ['seed', () => ({ seed: [1, 2], numImages: 3 })],
  ['outpainting', () => ({ outpainting: true })],
])('%s is refused by its name', async (field, fields) => {
  const error = await sdk.imageGen.generateSdxl({ ...order, ...(await fields()) }).then(
    () => null,
    (refusal: unknown) => refusal,
  )
  expect(error).toBeInstanceOf(OctoAIError)
  const { statusCode, body } = error as OctoAIError
  expect(statusCode).toBe(422)
  expect(JSON.stringify(body)).toContain(field)
})

/** A small file of 196 million pixels. */
function bomb(): Promise<Buffer> {
  return sharp({ create: { width: 14_000, height: 14_000, channels: 3, background: 'black' } })
    .png({ compressionLevel: 9 })
    .toBuffer()
}
