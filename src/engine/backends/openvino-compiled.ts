// Compiled networks in the cache folder. OpenVINO takes half a minute to see what of a rounded UNet it can compute in 8-bit
// integers; what it has found is written down once, and read back in a fifth of the time.
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { cpus } from 'node:os'
import { keptFile, type CacheOptions } from '../weights/kept-file.ts'
import { canMapFiles, mapFile, type MappedFile } from './mapped-file.ts'
import { releasingMapping } from './mapped-pages.ts'
import { OpenvinoError, type Handle, type OpenvinoLibrary } from './openvino-library.ts'

/** Part of a file's name: raised when the same graph is compiled differently. */
const compiledVersion = 1
const device = 'CPU'

/** Bytes before the text of a file, and those that tell where its parts lie. */
const textStart = 20
const partsBytes = 48

/**
 * Whether what is compiled can be kept here: reading it back needs one library more, which some distributions package
 * apart, and a file that is mapped.
 */
export function canKeepCompiled({ place: { folder } }: OpenvinoLibrary): boolean {
  return canMapFiles && readdirSync(folder).some((name) => name.includes('openvino_ir_frontend'))
}

/** What is compiled, by what, and where it is kept. */
export type CompiledOrder = {
  readonly library: OpenvinoLibrary
  /** ONNX; the files of its weights are named by what they hold. */
  readonly model: Uint8Array
  readonly properties: Readonly<Record<string, string>>
  readonly cache: CacheOptions
  /** What the file will take, about. */
  readonly sizeBytes: number
}

/** A compiled network, and the file that it is computed from. */
export type OpenCompiled = Disposable & { readonly compiled: Handle<'compiled'>; readonly mapped: MappedFile }

/**
 * The network of an order out of the cache folder; where it has none that is whole, and made by this release on a CPU like
 * this one, `compile` makes it. Throws `disk_full`, `cache_unwritable`, and what `compile` and the library throw.
 */
export async function openCompiled(
  { cache, library, model, properties, sizeBytes }: CompiledOrder,
  compile: () => Promise<Handle<'compiled'>>,
): Promise<OpenCompiled> {
  using owned = new DisposableStack()
  const core = owned.adopt(library.createCore(), (made) => library.freeCore(made))
  library.setProperties(core, device, properties)
  const capabilities = library.property(core, device, 'OPTIMIZATION_CAPABILITIES')
  const machine = [library.version, cpus().at(0)?.model ?? '', capabilities, JSON.stringify(properties)].join('\n')
  const hash = createHash('sha256').update(machine).update('\n').update(model).digest('hex')
  const wanted = {
    fileName: `${hash}-openvino-v${compiledVersion}.blob`,
    sizeBytes,
    purpose: 'keeping a compiled network',
    isWhole,
  }
  const { file } = owned.use(
    await keptFile(wanted, cache, async (scratch) => {
      const compiled = await compile()
      try {
        await library.exportModel(compiled, scratch)
      } finally {
        library.freeCompiled(compiled)
      }
      if (!(await isWhole(scratch))) throw new OpenvinoError(`${scratch} was not written to its end: is the disk full?`)
      await using handle = await open(scratch, 'r+')
      await handle.datasync()
    }),
  )
  const mapped = owned.use(mapFile(file))
  const compiled = await releasingMapping(mapped, () =>
    library.importModel(core, mapped.address, mapped.length, device),
  )
  owned.adopt(compiled, (made) => library.freeCompiled(made))
  const kept = owned.move()
  return { compiled, mapped, [Symbol.dispose]: () => kept.dispose() }
}

/**
 * Whether a file was written to its end. After eight letters, a version and a text with its length (64 bits, at byte 12) it
 * tells where its three parts lie, each as offset and size in 64 bits; that is written last, and the third ends with the file.
 */
async function isWhole(file: string): Promise<boolean> {
  try {
    const { size } = await stat(file)
    await using handle = await open(file, 'r')
    const head = Buffer.alloc(textStart)
    if ((await handle.read(head, 0, textStart, 0)).bytesRead < textStart) return false
    const partsStart = BigInt(textStart) + head.readBigUInt64LE(textStart - 8)
    if (partsStart + BigInt(partsBytes) > size) return false
    const parts = Buffer.alloc(partsBytes)
    await handle.read(parts, 0, partsBytes, partsStart)
    return partsStart + parts.readBigUInt64LE(partsBytes - 16) + parts.readBigUInt64LE(partsBytes - 8) === BigInt(size)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
