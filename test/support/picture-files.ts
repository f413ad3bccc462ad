// Small pictures and masks for the command line.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'

/** A scene of soft colours with an edge in it, as raw RGB. */
export function scene(width: number, height: number): Buffer {
  const data = Buffer.alloc(3 * width * height)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const inside = Math.hypot(x - width / 2, y - height / 2) < Math.min(width, height) / 3
      data.set(inside ? [210, 60 + (60 * x) / width, 40] : [150, 180 + (60 * y) / height, 230], 3 * (y * width + x))
    }
  return data
}

/** Save a scene under a name whose ending tells the format, and give its pixels. */
export async function saveScene(folder: string, name: string, width: number, height: number): Promise<Buffer> {
  const data = scene(width, height)
  await sharp(data, { raw: { width, height, channels: 3 } }).toFile(path.join(folder, name))
  return data
}

/** Save a black mask with a white box, right and bottom not in it. */
export async function saveMask(
  folder: string,
  name: string,
  [width, height]: readonly [number, number],
  [left, top, right, bottom]: readonly [number, number, number, number],
): Promise<void> {
  const data = Buffer.alloc(width * height)
  for (let y = top; y < bottom; y++) data.fill(255, y * width + left, y * width + right)
  writeFileSync(
    path.join(folder, name),
    await sharp(data, { raw: { width, height, channels: 1 } })
      .png()
      .toBuffer(),
  )
}

/** The RGB bytes of a saved picture. */
export async function rgbOf(file: string): Promise<{ width: number; height: number; data: Buffer }> {
  const { data, info } = await sharp(file)
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, data }
}
