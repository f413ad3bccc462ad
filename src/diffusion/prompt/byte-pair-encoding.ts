// Byte-pair encoding: "Neural Machine Translation of Rare Words with Subword Units" (arXiv 1508.07909), over token ids. A
// heap keeps a word of n symbols at O(n log n): a row of ten thousand emoji is one word.
import { AppError } from '../../errors.ts'

/** Left and right token id, as one number. */
type PairKey = number

/** Pair → its priority (0 is merged first) and the token it becomes. */
export type MergeTable = ReadonlyMap<PairKey, { readonly rank: number; readonly token: number }>

const pairKey = (left: number, right: number): PairKey => left * 2 ** 21 + right

/** The merges of a vocabulary, best first. Throws bad_file when a merge speaks of a token that is not in `vocab`. */
export function mergeTable(
  vocab: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
): MergeTable {
  const idOf = (token: string, rank: number): number => {
    const id = vocab.get(token)
    if (id === undefined)
      throw new AppError(
        'bad_file',
        `tokenizer: merge ${rank} needs the token ${JSON.stringify(token)}, which vocab lacks`,
      )
    return id
  }
  return new Map(
    merges.map(([left, right], rank) => [
      pairKey(idOf(left, rank), idOf(right, rank)),
      { rank, token: idOf(left + right, rank) },
    ]),
  )
}

/** Tokens of one word given as its symbols' ids: always the best pair is merged next, the leftmost of equals. */
export function mergeSymbols(symbols: readonly number[], table: MergeTable): number[] {
  const tokens = [...symbols]
  // A merged symbol keeps its left place; the right one leaves the list. −1: the word's end.
  const next = tokens.map((_, i) => (i + 1 < tokens.length ? i + 1 : -1))
  const previous = tokens.map((_, i) => i - 1)
  const gone = new Uint8Array(tokens.length)
  const heap = new CandidateHeap()
  const propose = (left: number): void => {
    if (left === -1 || next[left] === -1) return
    const merge = table.get(pairKey(tokens[left], tokens[next[left]]))
    if (merge) heap.push({ rank: merge.rank, left, token: merge.token })
  }
  for (let i = 0; i < tokens.length; i++) propose(i)
  for (let best = heap.pop(); best; best = heap.pop()) {
    const { left, token } = best
    const right = next[left]
    // Stale when one side was merged otherwise since; then the pair there no longer becomes this token.
    if (gone[left] || right === -1 || table.get(pairKey(tokens[left], tokens[right]))?.token !== token) continue
    tokens[left] = token
    gone[right] = 1
    next[left] = next[right]
    if (next[right] !== -1) previous[next[right]] = left
    propose(previous[left])
    propose(left)
  }
  return tokens.filter((_, i) => !gone[i])
}

type Candidate = { readonly rank: number; readonly left: number; readonly token: number }

/** A binary heap, best rank first, then leftmost. */
class CandidateHeap {
  readonly #items: Candidate[] = []

  push(item: Candidate): void {
    const items = this.#items
    let index = items.push(item) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!before(items[index], items[parent])) return
      this.#swap(index, parent)
      index = parent
    }
  }

  pop(): Candidate | undefined {
    const items = this.#items
    if (items.length < 2) return items.pop()
    this.#swap(0, items.length - 1)
    const best = items.pop()
    for (let index = 0; ;) {
      let smallest = index
      for (const child of [2 * index + 1, 2 * index + 2])
        if (child < items.length && before(items[child], items[smallest])) smallest = child
      if (smallest === index) return best
      this.#swap(index, smallest)
      index = smallest
    }
  }

  #swap(a: number, b: number): void {
    const items = this.#items
    const kept = items[a]
    items[a] = items[b]
    items[b] = kept
  }
}

function before(a: Candidate, b: Candidate): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.left < b.left)
}
