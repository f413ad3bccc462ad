import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { BlobStore } from '../../src/service/files/blob-store.ts'
import { openDiskBlobStore } from '../../src/service/files/disk-blob-store.ts'
import { openS3BlobStore } from '../../src/service/files/s3-blob-store.ts'
import { startS3, type S3Server } from '../support/s3-server.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)

async function keysOf(store: BlobStore, prefix: string): Promise<string[]> {
  const found = await Array.fromAsync(store.list(prefix))
  return found.map(({ key }) => key).sort()
}

let s3: S3Server
let buckets = 0
beforeAll(async () => {
  s3 = await startS3()
})
afterAll(() => s3[Symbol.asyncDispose]())

const openStore = {
  disk: async (): Promise<BlobStore> => openDiskBlobStore(path.join(await temporaryFolder('blobs'), 'files')),
  s3: async (): Promise<BlobStore> => {
    const store = await openS3BlobStore(await s3.makeBucket(`bucket-${++buckets}`))
    onTestFinished(() => store[Symbol.dispose]())
    return store
  },
}

describe.each(['disk', 's3'] as const)('blobs (%s)', (kind) => {
  it('are what was put, until they are put again or deleted', async () => {
    const store = await openStore[kind]()
    const key = 'jobs/req_01h455vb4pex5vsknk084sn02q/output/1-0'
    expect(await store.get(key)).toBeNull()
    await store.put(key, bytesOf('one'))
    expect(await store.get(key)).toEqual(expect.objectContaining({ length: 3 }))
    expect(Buffer.from((await store.get(key))!).toString()).toBe('one')
    await store.put(key, bytesOf('another'))
    expect(Buffer.from((await store.get(key))!).toString()).toBe('another')
    await store.put('jobs/empty', new Uint8Array())
    expect(await store.get('jobs/empty')).toHaveLength(0)
    await store.delete([key, 'jobs/nothing/there'])
    expect(await store.get(key)).toBeNull()
    expect(await keysOf(store, '')).toEqual(['jobs/empty'])
    await store.delete([])
  })

  it('keep every byte of large ones', async () => {
    const store = await openStore[kind]()
    const bytes = Uint8Array.from({ length: 5_000_011 }, (_, index) => (index * 31 + (index >> 8)) & 0xff)
    await store.put('jobs/large', bytes)
    expect(Buffer.compare((await store.get('jobs/large'))!, bytes)).toBe(0)
  })

  it('are listed by prefix with size and time', async () => {
    const store = await openStore[kind]()
    const before = Date.now()
    for (const key of ['jobs/a/input/1', 'jobs/a/output/1', 'jobs/ab/output/1', 'tunes/a/1'])
      await store.put(key, bytesOf(key))
    expect(await keysOf(store, '')).toEqual(['jobs/a/input/1', 'jobs/a/output/1', 'jobs/ab/output/1', 'tunes/a/1'])
    expect(await keysOf(store, 'jobs/')).toHaveLength(3)
    expect(await keysOf(store, 'jobs/a')).toHaveLength(3)
    expect(await keysOf(store, 'jobs/a/')).toEqual(['jobs/a/input/1', 'jobs/a/output/1'])
    expect(await keysOf(store, 'jobs/a/out')).toEqual(['jobs/a/output/1'])
    expect(await keysOf(store, 'jobs/a/output/1')).toEqual(['jobs/a/output/1'])
    expect(await keysOf(store, 'nothing/here')).toEqual([])
    const [blob] = await Array.fromAsync(store.list('tunes/'))
    expect(blob).toEqual({ key: 'tunes/a/1', sizeBytes: 9, modifiedAt: expect.any(Date) })
    // S3 tells whole seconds.
    expect(Math.abs(blob.modifiedAt.getTime() - before)).toBeLessThan(60_000)
  })

  it('have no keys that lead elsewhere', async () => {
    const store = await openStore[kind]()
    for (const key of ['', '/etc/passwd', '../x', 'a/../x', 'a//b', 'a/', 'a.b', 'A', 'a b', 'a\0', '.part/x']) {
      await expect(store.put(key, bytesOf('x'))).rejects.toThrow('no key of a blob')
      await expect(store.get(key)).rejects.toThrow('no key of a blob')
      await expect(store.delete([key])).rejects.toThrow('no key of a blob')
    }
  })

  it('appear whole or not at all to whoever reads meanwhile', async () => {
    const store = await openStore[kind]()
    const versions = Array.from({ length: 8 }, (_, index) => new Uint8Array(300_000).fill(index))
    await store.put('jobs/x', versions[0])
    const writing = new AbortController()
    const reading = (async () => {
      const seen: boolean[] = []
      while (!writing.signal.aborted) {
        const bytes = (await store.get('jobs/x'))!
        seen.push(bytes.length === 300_000 && bytes.every((byte) => byte === bytes[0]))
      }
      return seen
    })()
    await Promise.all(versions.map((bytes) => store.put('jobs/x', bytes)))
    writing.abort()
    expect(await reading).not.toContain(false)
  })

  it('come and go side by side in one folder', async () => {
    const store = await openStore[kind]()
    const job = async (index: number): Promise<void> => {
      for (let turn = 0; turn < 10; turn++) {
        await store.put(`jobs/shared/output/${index}`, bytesOf(`${index}`))
        await store.delete([`jobs/shared/output/${index}`])
      }
    }
    await Promise.all(Array.from({ length: 8 }, (_, index) => job(index)))
    expect(await keysOf(store, '')).toEqual([])
  })
})

describe('blobs on a disk', () => {
  it('leave no folders and no halves behind, and are their owner’s', async () => {
    const folder = path.join(await temporaryFolder('blobs'), 'files')
    const store = await openDiskBlobStore(folder)
    await store.put('jobs/a/output/1', bytesOf('x'))
    const file = path.join(folder, 'jobs/a/output/1')
    expect((await stat(folder)).mode & 0o777).toBe(0o700)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    await store.delete(['jobs/a/output/1'])
    expect(await readdir(folder)).toEqual(['.part'])
    await writeFile(path.join(folder, '.part', 'left'), 'by a killed process')
    await openDiskBlobStore(folder)
    expect(await readdir(path.join(folder, '.part'))).toEqual([])
  })

  it('say when they cannot be written', async () => {
    const folder = path.join(await temporaryFolder('blobs'), 'files')
    const store = await openDiskBlobStore(folder)
    await writeFile(path.join(folder, 'jobs'), 'a file where a folder should be')
    await expect(store.put('jobs/a', bytesOf('x'))).rejects.toMatchObject({
      code: 'storage_unavailable',
      message: expect.stringMatching(/^file store .*: cannot be written \((EEXIST|ENOTDIR)\)$/),
    })
    expect(await readdir(path.join(folder, '.part'))).toEqual([])
    expect(await readFile(path.join(folder, 'jobs'), 'utf8')).toMatch('a file')
  })
})

describe('blobs in a bucket', () => {
  it('lie below a prefix, where one is given', async () => {
    const place = await s3.makeBucket('prefixed')
    using whole = await openS3BlobStore(place)
    using part = await openS3BlobStore({ ...place, prefix: 'sepia/' })
    await part.put('jobs/a', bytesOf('x'))
    expect(await keysOf(part, '')).toEqual(['jobs/a'])
    expect(await keysOf(whole, '')).toEqual(['sepia/jobs/a'])
  })

  it('are listed and deleted beyond a thousand', async () => {
    using store = await openS3BlobStore(await s3.makeBucket('many'))
    const keys = Array.from({ length: 1001 }, (_, index) => `jobs/${index}`)
    for (let start = 0; start < keys.length; start += 50)
      await Promise.all(keys.slice(start, start + 50).map((key) => store.put(key, bytesOf('x'))))
    expect(await keysOf(store, 'jobs/')).toEqual([...keys].sort())
    await store.delete(keys)
    expect(await keysOf(store, '')).toEqual([])
  })

  it('say what is wrong with the bucket', async () => {
    const place = await s3.makeBucket('there')
    await expect(openS3BlobStore({ ...place, bucket: 'absent' })).rejects.toMatchObject({
      code: 'storage_unavailable',
      message: expect.stringMatching(/^file store, bucket "absent" at http:\/\/127\.0\.0\.1:\d+: /),
    })
    await expect(openS3BlobStore({ ...place, endpoint: 'http://127.0.0.1:9' })).rejects.toMatchObject({
      code: 'storage_unavailable',
      message: expect.stringContaining('ECONNREFUSED'),
    })
    await expect(openS3BlobStore({ ...place, secretAccessKey: null })).rejects.toMatchObject({ code: 'bad_argument' })
  })
})
