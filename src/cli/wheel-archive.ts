// Files out of a Python wheel, which is a zip archive (APPNOTE.TXT 6.3.10) of stored and deflated entries. Only wheels
// whose digest is known come here; what cannot be a file below a folder of its own is refused all the same.
import { crc32, inflateRawSync } from 'node:zlib'
import { AppError } from '../errors.ts'

/** One file of a wheel; `read` unpacks it. */
export type WheelFile = { readonly name: string; readonly sizeBytes: number; read(): Uint8Array }

const signatures = { local: 0x0403_4b50, central: 0x0201_4b50, end: 0x0605_4b50 } as const
const lengths = { local: 30, central: 46, end: 22 } as const
const methods = { stored: 0, deflated: 8 } as const

/** The files of a wheel in the order of its directory. Throws `bad_file`. */
export function readWheel(wheel: Buffer, file: string): readonly WheelFile[] {
  const bad = (problem: string): AppError => new AppError('bad_file', `file ${file} ${problem}`)
  const need = (at: number, length: number): void => {
    if (at < 0 || at + length > wheel.length) throw bad('is cut short: it ends inside a zip archive')
  }
  const end = wheel.length - lengths.end
  need(end, lengths.end)
  if (wheel.readUInt32LE(end) !== signatures.end) throw bad('is no wheel: it does not end as a zip archive does')
  const files: WheelFile[] = []
  let at = wheel.readUInt32LE(end + 16)
  for (let index = 0; index < wheel.readUInt16LE(end + 10); index++) {
    need(at, lengths.central)
    if (wheel.readUInt32LE(at) !== signatures.central) throw bad(`has a directory that breaks off at entry ${index}`)
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => wheel.readUInt16LE(at + field))
    const entry = {
      method: wheel.readUInt16LE(at + 10),
      checksum: wheel.readUInt32LE(at + 16),
      packedBytes: wheel.readUInt32LE(at + 20),
      sizeBytes: wheel.readUInt32LE(at + 24),
      header: wheel.readUInt32LE(at + 42),
    }
    need(at + lengths.central, nameLength)
    const name = wheel.toString('utf8', at + lengths.central, at + lengths.central + nameLength)
    at += lengths.central + nameLength + extraLength + commentLength
    if (name.endsWith('/')) continue
    if (/[\p{Cc}\\:]/u.test(name) || name.split('/').some((part) => /^\.{0,2}$/.test(part)))
      throw bad(`has an entry with the name ${JSON.stringify(name)}`)
    if (entry.method !== methods.stored && entry.method !== methods.deflated)
      throw bad(`packs ${name} in a way that wheels do not (${entry.method})`)
    files.push({ name, sizeBytes: entry.sizeBytes, read: () => unpack(name, entry) })
  }
  return files

  function unpack(
    name: string,
    entry: { method: number; checksum: number; packedBytes: number; sizeBytes: number; header: number },
  ): Uint8Array {
    const { checksum, header, method, packedBytes, sizeBytes } = entry
    need(header, lengths.local)
    if (wheel.readUInt32LE(header) !== signatures.local) throw bad(`has no entry where its directory says ${name} is`)
    const start = header + lengths.local + wheel.readUInt16LE(header + 26) + wheel.readUInt16LE(header + 28)
    need(start, packedBytes)
    const packed = wheel.subarray(start, start + packedBytes)
    const bytes = method === methods.stored ? packed : inflate(name, packed, sizeBytes)
    if (bytes.length !== sizeBytes || crc32(bytes) !== checksum) throw bad(`is damaged: ${name} is not what it was`)
    return bytes
  }

  function inflate(name: string, packed: Uint8Array, sizeBytes: number): Uint8Array {
    try {
      return inflateRawSync(packed, { maxOutputLength: Math.max(1, sizeBytes) })
    } catch (error) {
      throw new AppError('bad_file', `file ${file} is damaged: ${name} does not unpack`, { cause: error })
    }
  }
}
