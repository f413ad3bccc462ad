// How a hostile file is made: from numbers of a seed, with a place that its code would write to.

/** Numbers of a small generator (mulberry32), so that a case depends on nothing but its seed. */
export type Dice = {
  /** A whole number from 0 to below `limit`. */
  below(limit: number): number
  pick<T>(items: readonly T[]): T
}

/** The numbers of a seed. */
export function diceOf(seed: number): Dice {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b_79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (limit: number): number => Math.floor(next() * limit)
  return { below, pick: (items) => items[below(items.length)] }
}

/** Makes one file. */
export type Make = (dice: Dice, marker: string) => Buffer
export type Way = readonly [name: string, make: Make]
