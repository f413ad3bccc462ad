import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { TorchGenerator } from '#tensor/random.ts'

type Call = { shape: number[]; values: number[] }
type Golden = {
  cases: { seed: string; calls: Call[] }[]
  hashes: { seed: string; calls: { shape: number[]; sha256: string }[] }[]
}
const golden = JSON.parse(readFileSync('test/golden/randn/values.json', 'utf8')) as Golden

describe('TorchGenerator.randn is torch.randn, bit for bit', () => {
  test.each(
    golden.cases.map((entry) => ({ ...entry, shapes: entry.calls.map((call) => `[${call.shape.join()}]`).join(' ') })),
  )('seed $seed, shapes $shapes', ({ seed, calls }) => {
    const generator = new TorchGenerator(BigInt(seed))
    for (const { shape, values } of calls) {
      const drawn = generator.randn(shape)
      expect(drawn.shape).toEqual(shape)
      expect(drawn.data).toEqual(Float32Array.from(values))
    }
  })

  test.each(golden.hashes)('latents of 1024×1024, seed $seed', ({ seed, calls }) => {
    const generator = new TorchGenerator(BigInt(seed))
    for (const { shape, sha256 } of calls) {
      const { data } = generator.randn(shape)
      expect(createHash('sha256').update(new Uint8Array(data.buffer)).digest('hex')).toBe(sha256)
    }
  })
})

describe('seeds', () => {
  test('a number and a bigint mean the same', () => {
    expect(new TorchGenerator(2748252853).randn([20])).toEqual(new TorchGenerator(2748252853n).randn([20]))
  })

  test('neighbouring seeds differ', () => {
    expect(new TorchGenerator(1).randn([20]).data).not.toEqual(new TorchGenerator(2).randn([20]).data)
  })

  test.each([-1, 0.5, Number.NaN, 2 ** 53, -1n, 1n << 64n])('%s is refused', (seed) => {
    expect(() => new TorchGenerator(seed)).toThrow(
      expect.objectContaining({ code: 'bad_argument', message: expect.stringContaining(`seed: ${seed} `) as string }),
    )
  })
})
