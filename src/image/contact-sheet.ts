// Several pictures on one: a grid of equal cells in reading order.
import type { Pixels } from './codec.ts'
import { resizeLanczos } from './resize.ts'

/** Longest side of a cell, and the white between cells, in pixels. */
const cellEdge = 512
const gap = 8

/** Pictures of one size, collected one by one; only their cells are kept. */
export class ContactSheet {
  readonly #cells: Pixels[] = []
  readonly #edge: number

  /** Cells are at most `edge` pixels long; smaller pictures keep their size. */
  constructor(edge = cellEdge) {
    this.#edge = edge
  }

  /** Add a picture at the end. */
  add(pixels: Pixels): void {
    const scale = Math.min(1, this.#edge / Math.max(pixels.width, pixels.height))
    const width = Math.max(1, Math.round(pixels.width * scale))
    const height = Math.max(1, Math.round(pixels.height * scale))
    this.#cells.push(scale === 1 ? pixels : resizeLanczos(pixels, width, height))
  }

  /** The sheet, of `columns` cells a row: by default the number that comes nearest to a square. */
  render(columns = Math.ceil(Math.sqrt(this.#cells.length))): Pixels {
    const cellWidth = Math.max(...this.#cells.map(({ width }) => width))
    const cellHeight = Math.max(...this.#cells.map(({ height }) => height))
    const width = columns * (cellWidth + gap) + gap
    const height = Math.ceil(this.#cells.length / columns) * (cellHeight + gap) + gap
    const data = new Uint8Array(3 * width * height).fill(255)
    for (const [index, cell] of this.#cells.entries()) {
      const left = gap + (index % columns) * (cellWidth + gap)
      const top = gap + Math.floor(index / columns) * (cellHeight + gap)
      for (let y = 0; y < cell.height; y++)
        data.set(cell.data.subarray(3 * y * cell.width, 3 * (y + 1) * cell.width), 3 * ((top + y) * width + left))
    }
    return { width, height, data }
  }
}
