import { readFile } from 'node:fs/promises'
import sharp, { type OutputInfo } from 'sharp'
import { expect } from 'vitest'

/** Mean and largest absolute difference of two pictures, in steps of 1/255. */
export async function pictureDifference(
  a: Uint8Array | string,
  b: Uint8Array | string,
): Promise<{ mean: number; max: number }> {
  const [left, right] = await Promise.all([pixelsOf(a), pixelsOf(b)])
  expect(left.info).toMatchObject({ width: right.info.width, height: right.info.height, channels: 3 })
  let sum = 0
  let max = 0
  for (let i = 0; i < right.data.length; i++) {
    const difference = Math.abs(left.data[i] - right.data[i])
    sum += difference
    max = Math.max(max, difference)
  }
  return { mean: sum / right.data.length, max }
}

async function pixelsOf(picture: Uint8Array | string): Promise<{ data: Buffer; info: OutputInfo }> {
  const bytes = typeof picture === 'string' ? await readFile(picture) : picture
  return await sharp(bytes).removeAlpha().raw().toBuffer({ resolveWithObject: true })
}
