import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFileSync } from 'node:fs'
import {
  copyFile,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { componentNames, type Component, type StoredTensor } from '#engine/weights/checkpoint.ts'
import { canonicalJson, componentHash, modelHash } from '#engine/weights/hash.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { writeSafetensors } from '#tensor/safetensors-writer.ts'
import { readTensorBytes } from '#tensor/safetensors.ts'
import { componentOf } from '../../support/component-of.ts'
import { tinyModels, writeTinyBSingleFile } from '../../support/tiny-b-single-file.ts'

const original = join(tinyModels, 'tiny-b/vae/diffusion_pytorch_model.safetensors')
let root: string
let cacheDir: string
let scratchDir: string
let cacheCount = 0
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'hash-'))
  scratchDir = join(root, 'scratch')
  await mkdir(scratchDir)
})
beforeEach(() => {
  cacheDir = join(root, `cache-${cacheCount++}`)
})
afterAll(() => rm(root, { recursive: true }))

const hashOf = (component: Component<object>): Promise<string> => componentHash(component, { cacheDir, scratchDir })

/** The hash, and whether the weights were read for it. */
async function hashAndReads(component: Component<object>): Promise<{ hash: string; bytesRead: number }> {
  let bytesRead = 0
  const hash = await componentHash(component, { cacheDir, scratchDir, onProgress: (done) => (bytesRead = done) })
  return { hash, bytesRead }
}

async function copyOf(name: string): Promise<string> {
  const file = join(root, name)
  await copyFile(original, file)
  return file
}

function withTensor(
  component: Component<object>,
  name: string,
  change: (tensor: StoredTensor) => StoredTensor,
): Component<object> {
  return {
    ...component,
    weights: new Map([...component.weights].map(([key, t]) => [key, key === name ? change(t) : t])),
  }
}

describe('componentHash', () => {
  it('is SHA-256 over sorted name, dtype, shape, SHA-256 of the bytes, and the config', async () => {
    const component = await componentOf('vae', original)
    const bytes = await readFile(original)
    const headerLength = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] }
    >
    const lines = Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(([name, { dtype, shape, data_offsets }]) => {
        const data = bytes.subarray(8 + headerLength).subarray(...data_offsets)
        return `${name} ${dtype} [${shape.join(',')}] ${createHash('sha256').update(data).digest('hex')}`
      })
    const expected = createHash('sha256')
      .update(`${lines.sort().join('\n')}\n{"of":"vae"}`)
      .digest('hex')
    expect(await hashOf(component)).toBe(expected)
  })

  it('does not depend on the layout: other order, two files, or in memory', async () => {
    const component = await componentOf('vae', original)
    const keys = [...component.weights.keys()].toReversed()
    const weights = new Map<string, StoredTensor>()
    for (const [part, names] of [keys.slice(0, 40), keys.slice(40, -3)].entries()) {
      const file = join(root, `part-${part}.safetensors`)
      const entries = names.map((name) => {
        const { dtype, shape } = component.weights.get(name)!
        return { name, dtype, shape }
      })
      await writeSafetensors(file, entries, async function* (entry) {
        yield await readTensorBytes(component.weights.get(entry.name)!)
      })
      for (const [name, tensor] of (await componentOf('vae', file)).weights) weights.set(name, tensor)
    }
    for (const name of keys.slice(-3)) {
      const tensor = component.weights.get(name)!
      weights.set(name, { ...tensor, source: { bytes: await readTensorBytes(tensor) } })
    }
    expect(await hashOf({ ...component, weights })).toBe(await hashOf(component))
  })

  it('is the same for a single file and a folder', async () => {
    const file = await writeTinyBSingleFile()
    const [single, folder] = await Promise.all([openCheckpoint(file), openCheckpoint(join(tinyModels, 'tiny-b'))])
    for (const name of componentNames)
      expect([name, await hashOf(single[name]!)]).toEqual([name, await hashOf(folder[name]!)])
    await rm(dirname(file), { recursive: true })
  })

  it('changes with a bit of the weights, a name, a dtype, a shape and the config', async () => {
    const component = await componentOf('vae', original)
    const name = 'encoder.conv_in.weight'
    const flipped = await copyOf('flipped.safetensors')
    {
      await using handle = await open(flipped, 'r+')
      const { size } = await handle.stat()
      const last = Buffer.alloc(1)
      await handle.read(last, 0, 1, size - 1)
      await handle.write(Buffer.of(last[0] ^ 1), 0, 1, size - 1)
    }
    const variants = [
      component,
      await componentOf('vae', flipped),
      { ...component, weights: new Map([...component.weights].map(([key, t]) => [key === name ? `${key}2` : key, t])) },
      withTensor(component, name, (tensor) => ({ ...tensor, dtype: 'BF16' })),
      withTensor(component, name, (tensor) => ({ ...tensor, shape: tensor.shape.toReversed() })),
      { ...component, config: { of: 'vae', more: 1 } },
    ]
    const hashes = await Promise.all(variants.map(hashOf))
    expect(new Set(hashes).size).toBe(variants.length)
  })

  it('does not depend on the order of the config, the name of the component, or the path', async () => {
    const component = { ...(await componentOf('vae', original)), config: { a: 1, b: { c: [1, 2], d: null } } }
    const other = {
      ...(await componentOf('unet', await copyOf('copy.safetensors'))),
      config: { b: { d: null, c: [1, 2] }, a: 1 },
    }
    expect(await hashOf(other)).toBe(await hashOf(component))
  })

  it('reads the weights once, also under another path to the same file', async () => {
    const file = await copyOf('once.safetensors')
    const first = await hashAndReads(await componentOf('vae', file))
    const link = join(root, 'link.safetensors')
    await symlink(file, link)
    const second = await hashAndReads(await componentOf('vae', file))
    const third = await hashAndReads(await componentOf('vae', link))
    expect(first.bytesRead).toBeGreaterThan(1_900_000)
    expect([second, third]).toEqual([
      { hash: first.hash, bytesRead: 0 },
      { hash: first.hash, bytesRead: 0 },
    ])
  })

  it('notices a change that keeps size and modification time', async () => {
    const file = await copyOf('touched.safetensors')
    // A whole second, so that it can be restored exactly.
    await utimes(file, 1_000_000, 1_000_000)
    const before = await hashOf(await componentOf('vae', file))
    const { mtimeNs, size } = await stat(file, { bigint: true })
    {
      await using handle = await open(file, 'r+')
      await handle.write(Buffer.from('abcd'), 0, 4, Number(size) - 4)
    }
    await utimes(file, 1_000_000, 1_000_000)
    expect((await stat(file, { bigint: true })).mtimeNs).toBe(mtimeNs)
    expect(await hashOf(await componentOf('vae', file))).not.toBe(before)
  })

  it.each(['', '{', 'null', '[]', '"text"', '{"a":1}', '\0\0\0'])('makes a damaged index anew: %j', async (text) => {
    const component = await componentOf('vae', original)
    const { hash } = await hashAndReads(component)
    await writeFile(join(cacheDir, 'hashes.json'), text)
    const again = await hashAndReads(component)
    expect(again.hash).toBe(hash)
    expect(again.bytesRead).toBeGreaterThan(0)
    expect((await hashAndReads(component)).bytesRead).toBe(0)
  })

  it('remembers a thousand hashes and forgets the oldest', async () => {
    const component = await componentOf('vae', original)
    await hashOf(component)
    const index = join(cacheDir, 'hashes.json')
    const digest = (text: string): string => createHash('sha256').update(text).digest('hex')
    const full = Array.from({ length: 1000 }, (_, i) => [digest(`${i}`), digest(`h${i}`)])
    await writeFile(index, JSON.stringify(Object.fromEntries(full)))
    const hash = await hashOf(component)
    const kept = Object.entries(JSON.parse(await readFile(index, 'utf8')) as Record<string, string>)
    expect(kept).toHaveLength(1000)
    expect(kept.slice(0, -1)).toEqual(full.slice(1))
    expect(kept.at(-1)![1]).toBe(hash)
  })

  it('loses nothing when several processes remember at once', async () => {
    const files = await Promise.all([0, 1, 2].map((index) => copyOf(`parallel-${index}.safetensors`)))
    const script = `
      import { componentHash } from ${JSON.stringify(join(import.meta.dirname, '../../../src/engine/weights/hash.ts'))}
      import { componentOf } from ${JSON.stringify(join(import.meta.dirname, '../../support/component-of.ts'))}
      await componentHash(await componentOf('vae', process.argv[1]), { cacheDir: process.argv[2], scratchDir: process.argv[3] })`
    await Promise.all(
      files.map(async (file) => {
        const scratch = await mkdtemp(join(root, 'scratch-'))
        const argv = ['--input-type=module', '-e', script, file, cacheDir, scratch]
        await promisify(execFile)(process.execPath, argv)
      }),
    )
    for (const file of files) expect((await hashAndReads(await componentOf('vae', file))).bytesRead).toBe(0)
  })

  it('refuses files that are gone, cut off, or change while they are read', async () => {
    const gone = await componentOf('vae', await copyOf('gone.safetensors'))
    await rm(join(root, 'gone.safetensors'))
    await expect(hashOf(gone)).rejects.toMatchObject({ code: 'bad_file', message: expect.stringContaining('ENOENT') })

    const file = await copyOf('cut.safetensors')
    const cut = await componentOf('vae', file)
    await truncate(file, 1_000_000)
    await expect(hashOf(cut)).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringMatching(/ends at byte 1000000, inside tensor "/),
    })

    const growing = await copyOf('growing.safetensors')
    const component = await componentOf('vae', growing)
    const onProgress = (): void => appendFileSync(growing, 'x')
    await expect(componentHash(component, { cacheDir, scratchDir, onProgress })).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringContaining('changed while'),
    })
  })

  it('says when the cache folder cannot be written, before it reads', async () => {
    const component = await componentOf('vae', original)
    const options = {
      cacheDir: join(original, 'cache'),
      scratchDir,
      onProgress: () => {
        throw new Error('read')
      },
    }
    await expect(componentHash(component, options)).rejects.toMatchObject({ code: 'cache_unwritable' })
  })
})

describe('modelHash', () => {
  const [a, b] = ['a'.repeat(64), 'b'.repeat(64)]
  it('depends on which component has which hash, not on their order', () => {
    expect(modelHash({ unet: a, vae: b })).toBe(modelHash({ vae: b, unet: a }))
    expect(modelHash({ unet: a, vae: b })).toMatch(/^[0-9a-f]{64}$/)
    expect(new Set([modelHash({ unet: a, vae: b }), modelHash({ unet: b, vae: a }), modelHash({ unet: a })]).size).toBe(
      3,
    )
  })
})

describe('canonicalJson', () => {
  it('sorts keys at every depth and keeps the order of arrays', () => {
    expect(canonicalJson({ b: [{ d: 1, c: 'x' }, null], a: true })).toBe('{"a":true,"b":[{"c":"x","d":1},null]}')
  })
})
