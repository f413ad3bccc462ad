// Byte-pair encoding: "Neural Machine Translation of Rare Words with Subword Units" (arXiv 1508.07909). A
// heap keeps a word of n symbols at O(n log n): a row of ten thousand emoji is one word.

/** Two symbols with a space between them → their priority (0 is merged first). No symbol holds a space. */
export type MergeRanks = ReadonlyMap<string, number>

/** A word's symbols after all merges: always the best pair is merged next, the leftmost of equals. */
export function mergeSymbols(symbols: readonly string[], ranks: MergeRanks): string[] {
  const tokens = [...symbols]
  // A merged symbol keeps its left place; the right one leaves the list. −1: the word's end.
  const next = tokens.map((_, i) => (i + 1 < tokens.length ? i + 1 : -1))
  const previous = tokens.map((_, i) => i - 1)
  const gone = new Uint8Array(tokens.length)
  const heap = new CandidateHeap()
  const propose = (left: number): void => {
    if (left === -1 || next[left] === -1) return
    const rank = ranks.get(`${tokens[left]} ${tokens[next[left]]}`)
    if (rank !== undefined) heap.push({ rank, left })
  }
  for (let i = 0; i < tokens.length; i++) propose(i)
  for (let best = heap.pop(); best; best = heap.pop()) {
    const { left, rank } = best
    const right = next[left]
    // Stale when one side was merged otherwise since; then the pair there is no longer this one.
    if (gone[left] || right === -1 || ranks.get(`${tokens[left]} ${tokens[right]}`) !== rank) continue
    tokens[left] += tokens[right]
    gone[right] = 1
    next[left] = next[right]
    if (next[right] !== -1) previous[next[right]] = left
    propose(previous[left])
    propose(left)
  }
  return tokens.filter((_, i) => !gone[i])
}

type Candidate = { readonly rank: number; readonly left: number }

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
