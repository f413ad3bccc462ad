// The examples that ship with pocket, by name, in whole pictures: what they are for can be seen in their colours.
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import sharp from 'sharp'
import { makePlace, removePlace, sepia, type Place } from '../support/sepia-command.ts'

let place: Place
beforeAll(() => {
  place = makePlace()
})
afterAll(() => removePlace(place))

/** Mean red, green and blue, and all pixels, of a small picture made with some options. */
async function picture(name: string, prompt: string, ...options: string[]) {
  const file = path.join(place.folder, `${name}.png`)
  const common = ['--width', '512', '--height', '512', '--steps', '8', '--cfg', '5', '--seed', '7', '-o', file]
  const { code, stderr } = await sepia(place, ['generate', prompt, ...common, ...options])
  expect([code, stderr]).toEqual([0, ''])
  const image = sharp(file)
  const { channels } = await image.stats()
  const [red, green, blue] = channels.map(({ mean }) => mean)
  return { red, green, blue, pixels: await image.raw().toBuffer() }
}

it('a LoRA makes blueprints, and none at a weight of 0', async () => {
  const plain = await picture('plain', 'a blueprint of a star')
  const without = await picture('without', 'a blueprint of a star', '--lora', 'pocket-blueprint:0')
  expect(without.pixels.equals(plain.pixels)).toBe(true)
  expect(plain.red).toBeGreaterThan(180)
  const { red, blue } = await picture('blueprint', 'a blueprint of a star', '--lora', 'octoai:pocket-blueprint')
  expect(blue - red).toBeGreaterThan(60)
}, 120_000)

it('an inversion makes old photographs of the word that it is given', async () => {
  const ti = ['--ti', 'pocket-sepia=oldphoto']
  const plain = await picture('star', 'a star, oldphoto')
  const { red, green, blue } = await picture('old', 'a star, oldphoto', ...ti)
  // Paper: darker than white, and red before green before blue.
  expect(red).toBeLessThan(plain.red - 30)
  expect(red - blue).toBeGreaterThan(20)
  expect(green).toBeGreaterThan(blue)
}, 120_000)
