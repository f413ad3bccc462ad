import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { byteLength, f32ToBf16, f32ToF16, toF32 } from '#tensor/dtype.ts'

const bytesOf = (array: Uint16Array | Float32Array): Uint8Array => new Uint8Array(array.buffer)
const allHalves = Uint16Array.from({ length: 0x1_0000 }, (_, bits) => bits)

/** Binary16 by its definition: sign, 5 bits of exponent, 10 of fraction. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 0x3ff
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25))
}

describe('fp16', () => {
  test('every one of the 65,536 values becomes the fp32 it stands for, and goes back', () => {
    const floats = toF32('F16', bytesOf(allHalves))
    expect([...floats]).toEqual([...allHalves].map(half))
    const back = new Uint16Array(allHalves.length)
    expect(f32ToF16(floats, back)).toBe(0)
    const isNumber = (bits: number): boolean => !Number.isNaN(half(bits))
    expect(back.filter((_, bits) => isNumber(bits))).toEqual(allHalves.filter(isNumber))
  })

  test.each([
    ['ties go to even', 1 + 2 ** -11, 0x3c00],
    ['ties go to even upwards', 1 + 3 * 2 ** -11, 0x3c02],
    ['just above a tie', 1 + 2 ** -11 + 2 ** -20, 0x3c01],
    ['smallest subnormal', 2 ** -24, 0x0001],
    ['half of it is a tie with zero', 2 ** -25, 0x0000],
    ['the largest', 65_504, 0x7bff],
    ['rounds down to the largest', 65_519, 0x7bff],
  ])('%s', (_, value, bits) => {
    const out = new Uint16Array(1)
    expect(f32ToF16(Float32Array.of(value), out)).toBe(0)
    expect(out[0]).toBe(bits)
  })

  test('finite values beyond the range are counted, infinities and NaN are not', () => {
    const out = new Uint16Array(7)
    expect(f32ToF16(Float32Array.of(65_519, 65_520, -65_520, 1e38, Infinity, -Infinity, Number.NaN), out)).toBe(3)
    expect([...out.subarray(0, 6)]).toEqual([0x7bff, 0x7c00, 0xfc00, 0x7c00, 0x7c00, 0xfc00])
    expect(out[6] & 0x7fff).toBeGreaterThan(0x7c00)
  })
})

describe('bf16', () => {
  test('is the upper half of fp32', () => {
    const floats = toF32('BF16', bytesOf(allHalves))
    expect(new Uint32Array(floats.buffer)).toEqual(Uint32Array.from(allHalves, (word) => word * 0x1_0000))
    const back = new Uint16Array(allHalves.length)
    expect(f32ToBf16(floats, back)).toBe(0)
    // A signalling NaN comes back quiet.
    expect(back).toEqual(allHalves.map((word) => ((word & 0x7fff) > 0x7f80 ? word | 0x40 : word)))
  })

  test.each([
    ['ties go to even', 0x3f80_8000, 0x3f80],
    ['ties go to even upwards', 0x3f81_8000, 0x3f82],
    ['just above a tie', 0x3f80_8001, 0x3f81],
    ['a negative', 0xbf80_8001, 0xbf81],
    ['a NaN stays one', 0x7fff_ffff, 0x7fff],
    ['a NaN whose fraction is low stays one', 0x7f80_0001, 0x7fc0],
  ])('%s', (_, word, bits) => {
    const out = new Uint16Array(1)
    expect(f32ToBf16(new Float32Array(Uint32Array.of(word).buffer), out)).toBe(0)
    expect(out[0]).toBe(bits)
  })

  test('a finite value that rounds to infinity is counted', () => {
    const out = new Uint16Array(3)
    expect(f32ToBf16(Float32Array.of(3.4028234e38, -3.4028234e38, Infinity), out)).toBe(2)
    expect([...out]).toEqual([0x7f80, 0xff80, 0x7f80])
  })
})

test('bytes that do not lie on a boundary of elements give the same values', () => {
  fc.assert(
    fc.property(
      fc.array(fc.float({ noNaN: true }), { minLength: 1 }),
      fc.integer({ min: 0, max: 3 }),
      (values, shift) => {
        const floats = Float32Array.from(values)
        const moved = new Uint8Array(floats.byteLength + shift)
        moved.set(bytesOf(floats), shift)
        expect(toF32('F32', moved.subarray(shift))).toEqual(floats)
      },
    ),
  )
})

test('the output must have the size of the input', () => {
  expect(() => toF32('F16', new Uint8Array(4), new Float32Array(3))).toThrow('do not fill 3 elements')
  expect(() => toF32('F32', new Uint8Array(6))).toThrow('6 bytes of F32')
})

test.each([
  ['F32', [], 4],
  ['F16', [3, 5], 30],
  ['I64', [2, 0, 7], 0],
  ['F64', [2 ** 52, 2 ** 52, 0], 0],
  ['F4', [3], null],
  ['F4', [4], 2],
  ['F32', [2 ** 30, 2 ** 30], null],
] as const)('byteLength of %s %j is %j', (dtype, shape, bytes) => {
  expect(byteLength(dtype, shape)).toBe(bytes)
})
