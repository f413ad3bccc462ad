/** Numbers that a seed decides, in 0..1 (mulberry32, public domain). */
export type Random = () => number

/** A stream of its own for `seed`. */
export function seeded(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A whole number in min..max. */
export const between = (random: Random, min: number, max: number): number =>
  min + Math.floor(random() * (max - min + 1))

/** One of several, each with its weight. */
export function weighted<Value>(random: Random, choices: readonly (readonly [Value, number])[]): Value {
  let at = random() * choices.reduce((sum, [, weight]) => sum + weight, 0)
  for (const [value, weight] of choices) {
    at -= weight
    if (at < 0) return value
  }
  return choices[choices.length - 1][0]
}
