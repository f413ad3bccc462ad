// A textual inversion as a file, small enough to be written byte by byte.

/** `vectors` rows of width 32 for each text encoder, as the tiny models have; `value` makes one file differ from another. */
export function inversionFile(value: number, vectors = 1, width = 32): Buffer {
  const bytes = vectors * width * 4
  const tensor = (begin: number) => ({ dtype: 'F32', shape: [vectors, width], data_offsets: [begin, begin + bytes] })
  const header = Buffer.from(JSON.stringify({ clip_l: tensor(0), clip_g: tensor(bytes) }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, Buffer.from(new Float32Array((2 * bytes) / 4).fill(value).buffer)])
}
