// tiny-b under the names of a single file, put together in a temporary folder from the rows that
// tools/reference/models.py wrote (and proved with diffusers' converters). Reads and writes the bytes by itself, so
// that the code under test does not check itself.
import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryFolder } from './temporary-folder.ts'

type Row = [name: string, shape: number[], how: 'copy' | 'transpose' | 'concat', component: string, keys: string[]]
type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>

/** The folder of the tiny models, `tiny-a` and `tiny-b`. */
export const tinyModels = join(import.meta.dirname, '../golden/models')

/**
 * Write `tiny-b.safetensors` and `tiny-b.tokenizer/` into a folder that lives as long as the running test; returns the
 * file's path.
 */
export async function writeTinyBSingleFile(): Promise<string> {
  const rows = JSON.parse(await readFile(join(tinyModels, 'tiny-b-single-file.json'), 'utf8')) as Row[]
  const components = new Map<string, { header: Header; data: Buffer }>()
  for (const component of new Set(rows.map(([, , , component]) => component)))
    components.set(component, await readComponent(component))
  const header: Record<string, unknown> = {}
  const chunks: Buffer[] = []
  let offset = 0
  for (const [name, shape, how, component, keys] of rows) {
    const { header: stored, data } = components.get(component)!
    const parts = keys.map((key) => data.subarray(...stored[key].data_offsets))
    const bytes = how === 'transpose' ? transpose(parts[0], shape) : Buffer.concat(parts)
    header[name] = { dtype: 'F16', shape, data_offsets: [offset, offset + bytes.length] }
    offset += bytes.length
    chunks.push(bytes)
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const folder = await temporaryFolder('tiny-b')
  await writeFile(join(folder, 'tiny-b.safetensors'), Buffer.concat([length, json, ...chunks]))
  await cp(join(tinyModels, 'tiny-b/tokenizer'), join(folder, 'tiny-b.tokenizer'), { recursive: true })
  return join(folder, 'tiny-b.safetensors')
}

async function readComponent(component: string): Promise<{ header: Header; data: Buffer }> {
  const file = component.startsWith('text_encoder') ? 'model.safetensors' : 'diffusion_pytorch_model.safetensors'
  const bytes = await readFile(join(tinyModels, 'tiny-b', component, file))
  const length = Number(bytes.readBigUInt64LE(0))
  return { header: JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Header, data: bytes.subarray(8 + length) }
}

/** The transpose, of shape `[rows, columns]`, of a 16-bit matrix. */
function transpose(source: Buffer, [rows, columns]: number[]): Buffer {
  const result = Buffer.alloc(source.length)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      source.copy(result, (row * columns + column) * 2, (column * rows + row) * 2, (column * rows + row) * 2 + 2)
  return result
}
