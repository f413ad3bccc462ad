// The transfer coding aws-chunked, in which S3 clients wrap a body to send a checksum behind it: chunks of
// `<length in hex>\r\n<bytes>\r\n`, one of length 0, then trailers like headers, then an empty line.
import { AppError } from '../errors.ts'

const longestLine = 1024
const lineEnd = Buffer.from('\r\n')

/** Bytes that are read line by line and in counts. */
class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>
  #held = Buffer.alloc(0)

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  async #more(): Promise<boolean> {
    const { done, value } = await this.#chunks.next()
    if (done) return false
    this.#held = this.#held.length === 0 ? Buffer.from(value) : Buffer.concat([this.#held, value])
    return true
  }

  /** The text up to the next line end, without it; null at the end of the bytes. */
  async line(): Promise<string | null> {
    for (;;) {
      const end = this.#held.indexOf(lineEnd)
      if (end !== -1) {
        const text = this.#held.toString('latin1', 0, end)
        this.#held = this.#held.subarray(end + 2)
        return text
      }
      if (this.#held.length > longestLine) throw broken('a line is too long')
      if (!(await this.#more())) {
        if (this.#held.length === 0) return null
        throw broken('it ends within a line')
      }
    }
  }

  /** As many bytes as are there, at most `count`. */
  async some(count: number): Promise<Uint8Array> {
    if (this.#held.length === 0 && !(await this.#more())) throw broken('it ends within a chunk')
    const bytes = this.#held.subarray(0, count)
    this.#held = this.#held.subarray(bytes.length)
    return bytes
  }
}

/** The bytes within a wrapped body; its trailers are put into `trailers`. Throws `bad_argument` for a body that is not so wrapped. */
export async function* decodeAwsChunks(
  chunks: AsyncIterable<Uint8Array>,
  trailers: Map<string, string>,
): AsyncGenerator<Uint8Array> {
  const reader = new ByteReader(chunks)
  for (;;) {
    const head = await reader.line()
    const size = /^([0-9a-f]{1,12})$/i.exec(head ?? '')?.[1]
    if (size === undefined) throw broken('a chunk has no length')
    let left = parseInt(size, 16)
    if (left === 0) break
    while (left > 0) {
      const bytes = await reader.some(left)
      left -= bytes.length
      yield bytes
    }
    if ((await reader.line()) !== '') throw broken('a chunk is longer than its length')
  }
  for (let line = await reader.line(); line !== null; line = await reader.line()) {
    if (line === '') continue
    const [, name, value] = /^([\w-]{1,60}):\s*(.*?)\s*$/.exec(line) ?? []
    if (name === undefined || trailers.size >= 10) throw broken('a trailer is none')
    trailers.set(name.toLowerCase(), value)
  }
}

function broken(why: string): AppError {
  return new AppError('bad_argument', `the body is not coded as aws-chunked: ${why}`)
}
