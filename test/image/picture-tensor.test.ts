import { describe, expect, it } from 'vitest'
import { latentMask, toMaskTensor, toPictureTensor } from '#image/picture-tensor.ts'
import { readGolden } from '../support/golden.ts'

const golden = await readGolden('pixels/tensors.safetensors')
const size = { width: 16, height: 16 }
const value = (x: number, y: number) => 16 * y + x

describe('the reference, to the bit', () => {
  it('every value of a picture', () => {
    const data = Uint8Array.from({ length: 3 * 256 }, (_, i) => {
      const [x, y] = [Math.floor(i / 3) % 16, Math.floor(i / 48)]
      return [value(x, y), value(x, 15 - y), value(y, x)][i % 3]
    })
    expect(toPictureTensor({ ...size, data })).toEqual(golden.get('picture'))
  })

  it('every value of a mask', () => {
    const data = Uint8Array.from({ length: 256 }, (_, i) => i)
    const mask = toMaskTensor({ ...size, data })
    expect(mask).toEqual(golden.get('mask'))
    expect([mask.data[127], mask.data[128]]).toEqual([0, 1])
  })

  const masks = [...golden.keys()].filter((name) => name.startsWith('mask.'))
  it.each(masks)('the latents of %s', (name) => {
    const expected = golden.get(name.replace('mask', 'latent'))!
    expect(latentMask(golden.get(name)!, expected.shape[2], expected.shape[3])).toEqual(expected)
  })
})
