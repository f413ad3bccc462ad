// The library without its door, on both databases: what is kept, what goes, who sees what, and what it costs.
import { createHash } from 'node:crypto'
import { readFile, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { eq } from 'drizzle-orm'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { AppError } from '../../src/errors.ts'
import type { Account } from '../../src/service/accounts/account.ts'
import type { Asset } from '../../src/service/assets/asset.ts'
import { AssetFiles } from '../../src/service/assets/asset-files.ts'
import { tidyAssets } from '../../src/service/assets/asset-housekeeping.ts'
import { openAssetLibrary, type AssetLibrary } from '../../src/service/assets/asset-library.ts'
import {
  addAsset,
  exportAsset,
  publicAccount,
  removeAsset,
  showAsset,
  listAssets,
  type LibraryContext,
} from '../../src/service/assets/public-library.ts'
import { resolveAssets } from '../../src/service/assets/resolve-assets.ts'
import { inspectionQueue } from '../../src/service/assets/complete-upload.ts'
import { balanceOf, credit } from '../../src/service/billing/ledger.ts'
import { defaultPrices } from '../../src/service/billing/price-list.ts'
import { chargeStorage, storagePrice } from '../../src/service/billing/storage-charge.ts'
import { usage } from '../../src/service/billing/usage.ts'
import { assets as assetTable, type AssetType } from '../../src/service/db/schema.ts'
import { openS3BlobStore } from '../../src/service/files/s3-blob-store.ts'
import { asynchronous, fixtureEngine, newAccount, openOffice, orderFor, type Office } from '../support/job-office.ts'
import { startS3 } from '../support/s3-server.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { databaseKinds, makeDatabase } from '../support/test-database.ts'

type Kind = (typeof databaseKinds)[number]

/** A library with its office, whose clock can be moved. */
type Place = {
  readonly office: Office
  readonly library: AssetLibrary
  readonly context: LibraryContext
  readonly clock: { hours: number }
  readonly folder: string
  readonly account: Account
  readonly blobs: () => Promise<number>
}

async function openPlace(kind: Kind): Promise<Place> {
  const stack = new AsyncDisposableStack()
  onTestFinished(() => stack.disposeAsync())
  const folder = await temporaryFolder('assets')
  const { place } = stack.use(await makeDatabase(kind))
  const clock = { hours: 0 }
  const now = () => new Date(Date.now() + clock.hours * 3_600_000)
  const office = stack.use(await openOffice(place, path.join(folder, 'files'), { now }))
  const remote = { urls: null, hub: null }
  const library = stack.use(await openAssetLibrary({ ...office.context, remote }))
  const settings = {
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads: 1,
    cacheDir: path.join(folder, 'cache'),
    cacheLimitBytes: 1e9,
  } as const
  const assetFiles = new AssetFiles({ ...settings, blobs: office.blobs })
  const context = { ...office.context, settings, assetFiles, model: 'model', engineEntry: fixtureEngine }
  const account = await newAccount(office.database)
  const blobs = async () => (await Array.fromAsync(office.blobs.list('assets/'))).length
  return { office, library, context, clock, folder, account, blobs }
}

async function* bytesOf(text: string): AsyncGenerator<Uint8Array> {
  yield new TextEncoder().encode(text)
}

const engine = 'image/stable-diffusion-xl-v1-0'
const source = { url: null, hfRepo: null, hfTokenSecret: null }
const newAsset = (name: string, type: AssetType = 'lora') => ({
  name,
  type,
  description: '',
  isPublic: false,
  data: { engine, dataType: null, fileFormat: null, triggerWords: [], checkpoint: null, version: null },
})

/** A ready asset of an account. */
async function ready(
  { context, folder }: Place,
  account: Account,
  name: string,
  text = `good ${name}`,
): Promise<Asset> {
  const file = path.join(folder, `${account.name}-${name}`)
  await writeFile(file, text)
  return addAsset(context, { accountId: account.id, type: 'lora', name, path: file })
}

describe.each(databaseKinds)('the library (%s)', (kind) => {
  it('forgets an upload that is not completed in its time, with all of its bytes', async () => {
    const { account, blobs, clock, library, office } = await openPlace(kind)
    const whole = await library.create(account, newAsset('whole'), source)
    await library.receive(whole.id, bytesOf('good'))
    const inParts = await library.create(account, newAsset('parts'), source)
    const uploadId = await library.parts.begin(inParts.id)
    await library.parts.receive(inParts.id, uploadId, 1, bytesOf('good'))
    expect(await blobs()).toBe(2)
    const tidy = () => tidyAssets(office.context, new Date(0))
    clock.hours = 23.9
    expect(await tidy()).toEqual({ expired: 0, unreferenced: 0, swept: 0 })
    clock.hours = 24.1
    expect(await tidy()).toEqual({ expired: 2, unreferenced: 0, swept: 0 })
    expect(await blobs()).toBe(0)
    await expect(library.get(account, 'whole')).rejects.toMatchObject({ code: 'not_found' })
    await expect(library.receive(whole.id, bytesOf('good'))).rejects.toMatchObject({ code: 'forbidden' })
    await expect(library.parts.receive(inParts.id, uploadId, 2, bytesOf('x'))).rejects.toMatchObject({
      code: 'forbidden',
    })
    expect(await library.create(account, newAsset('whole'), source)).toMatchObject({ status: 'ready_to_upload' })
  })

  it('refuses permissions that have expired', async () => {
    const { account, clock, library } = await openPlace(kind)
    const asset = await library.create(account, newAsset('late'), source)
    const { signature, ...transfer } = await library.sign(asset, 'PUT')
    const { sessionToken } = await library.session(asset)
    await library.checkTransfer(transfer, signature)
    expect(await library.openSession(sessionToken)).toMatchObject({ assetId: asset.id })
    clock.hours = 24.1
    await expect(library.checkTransfer(transfer, signature)).rejects.toThrow('has expired')
    await expect(library.openSession(sessionToken)).rejects.toThrow('has expired')
  })

  it('sweeps files that nobody knows, and only those', async () => {
    const place = await openPlace(kind)
    const { account, blobs, library, office, clock } = place
    await ready(place, account, 'kept')
    const open = await library.create(account, newAsset('open'), source)
    await library.receive(open.id, bytesOf('good open'))
    await office.blobs.put('assets/blob_orphan', new Uint8Array(3))
    clock.hours = 1
    expect(await tidyAssets(office.context, office.context.now())).toEqual({ expired: 0, unreferenced: 0, swept: 1 })
    expect(await blobs()).toBe(2)
  })

  it('keeps a deleted file until the jobs have ended that were accepted with it', async () => {
    const place = await openPlace(kind)
    const { account, blobs, context, office } = place
    const { hash } = await ready(place, account, 'style')
    const job = await office.jobs.submit(account, orderFor('files', { loras: { style: 1 } }), asynchronous)
    await removeAsset(context, account, 'style')
    await expect(
      office.jobs.submit(account, orderFor('files', { loras: { style: 1 } }), asynchronous),
    ).rejects.toMatchObject({ code: 'not_found', field: 'loras' })
    await tidyAssets(office.context, new Date(0))
    expect(await blobs()).toBe(1)
    await office.run()
    const ended = await office.jobs.ended(job.id)
    expect(ended.error?.message).toContain(hash)
    await tidyAssets(office.context, new Date(0))
    expect(await blobs()).toBe(0)
  })

  it('shows each account its own, and of the public library what is ready', async () => {
    const place = await openPlace(kind)
    const { account, context, folder, library, office } = place
    const { db } = office.database
    const stranger = await newAccount(office.database)
    const mine = await ready(place, account, 'style')
    const owner = await publicAccount(db)
    const file = path.join(folder, 'public')
    await writeFile(file, 'good public')
    const shared = { accountId: owner.id, type: 'lora' as const, path: file }
    const style = await addAsset(context, { ...shared, name: 'style', isPublic: true })
    await addAsset(context, { ...shared, name: 'draft' })
    const found = async (viewer: Account, reference: string): Promise<string | null> => {
      const [result] = await Promise.allSettled([library.get(viewer, reference)])
      if (result.status === 'fulfilled') return result.value.id
      const { code, message } = result.reason as AppError
      return code === 'not_found' && message === `there is no asset ${JSON.stringify(reference)}` ? null : message
    }
    for (const [viewer, reference, expected] of [
      [account, 'style', mine.id],
      [account, mine.id, mine.id],
      [account, `${account.name}:style`, mine.id],
      [account, 'octoai:style', style.id],
      [account, 'public:style', style.id],
      [stranger, 'style', style.id],
      [stranger, style.id, style.id],
      [stranger, mine.id, null],
      [stranger, `${account.name}:style`, null],
      [stranger, `${account.id}:style`, null],
      [stranger, 'octoai:draft', null],
      [stranger, 'draft', null],
      [stranger, 'octoai:', null],
      [stranger, "' or true --", null],
      [stranger, 'style\0', null],
      [stranger, '', null],
    ] as const)
      expect([reference, await found(viewer, reference)]).toEqual([reference, expected])
    const listed = async (viewer: Account, filter: object) =>
      (await library.list(viewer, filter, { limit: 10, offset: 0 })).assets.map(({ id }) => id)
    expect(await listed(stranger, {})).toEqual([])
    expect(await listed(stranger, { owner: account.name })).toEqual([])
    expect(await listed(stranger, { owner: account.id })).toEqual([])
    expect(await listed(stranger, { ids: [mine.id, style.id] })).toEqual([style.id])
    expect(await listed(stranger, { isPublic: true })).toEqual([style.id])
    expect(await listed(stranger, { owner: 'octoai' })).toEqual([style.id])
    await expect(library.delete(stranger, style.id)).rejects.toMatchObject({ code: 'not_found' })
    await expect(library.complete(stranger, mine.id, new AbortController().signal)).rejects.toMatchObject({
      code: 'not_found',
    })
    const references = { checkpoint: null, vae: null, loras: { [mine.id]: 1 }, textualInversions: {} }
    await expect(resolveAssets(db, stranger, references)).rejects.toMatchObject({ code: 'not_found' })
    expect((await resolveAssets(db, account, references)).loras).toEqual([{ asset: mine.hash, scale: 1 }])
  })

  it('is an operator’s to fill, look through, export and empty', async () => {
    const place = await openPlace(kind)
    const { account, blobs, context, folder } = place
    const asset = await ready(place, account, 'style')
    expect(asset).toMatchObject({ status: 'ready', name: 'style', sizeBytes: 10, uploadKey: null })
    const bad = { accountId: account.id, type: 'lora' as const, name: 'bad', path: path.join(folder, 'bad') }
    await writeFile(bad.path, 'nonsense')
    await expect(addAsset(context, bad)).rejects.toMatchObject({
      code: 'bad_file',
      message: 'bad: the file: is no lora',
    })
    await expect(addAsset(context, { ...bad, path: folder })).rejects.toMatchObject({ code: 'bad_argument' })
    await expect(ready(place, account, 'style')).rejects.toThrow('there is an asset "style" already')
    expect(await blobs()).toBe(1)
    expect((await listAssets(context, account)).map(({ name }) => name)).toEqual(['style'])
    const copy = path.join(folder, 'copy')
    await exportAsset(context, account, 'style', copy)
    expect(await readFile(copy, 'utf8')).toBe('good style')
    await expect(exportAsset(context, account, 'style', copy)).rejects.toMatchObject({ code: 'output_unwritable' })
    expect(await showAsset(context, account, asset.id)).toMatchObject({ id: asset.id })
    await removeAsset(context, account, 'style')
    expect(await blobs()).toBe(0)
    await expect(removeAsset(context, account, 'style')).rejects.toMatchObject({ code: 'not_found' })
  })

  it('goes on with an inspection that an ended process had begun', async () => {
    const { account, library, office } = await openPlace(kind)
    const asset = await library.create(account, newAsset('left'), source)
    await library.receive(asset.id, bytesOf('good left'))
    const closed = new AbortController()
    closed.abort()
    expect(await library.complete(account, asset.id, closed.signal)).toMatchObject({ status: 'uploaded' })
    const { database, messages } = office.context
    const queue = inspectionQueue(office.context.deployment)
    await messages.create(queue)
    const taken = await database.db.transaction((tx) => messages.take(tx, queue, []))
    expect(taken).toMatchObject({ jobId: asset.id })
    // On PostgreSQL the lease would lapse; what does that is pg-boss's.
    if (kind === 'postgres') await database.db.transaction((tx) => messages.takeBack(tx, queue, asset.id))
    await office.run()
    await expect.poll(async () => (await library.get(account, asset.id)).status).toBe('ready')
  })

  it('costs what lies above the free part, once a day', async () => {
    const place = await openPlace(kind)
    const { account, office } = place
    const { db } = office.database
    await ready(place, account, 'large')
    await ready(place, account, 'small')
    await db.update(assetTable).set({ sizeBytes: 150_000_000_000 }).where(eq(assetTable.name, 'large'))
    await credit(db, account, 100_000n, 'storage')
    const day = new Date('2026-03-01T10:00:00Z')
    expect(await chargeStorage(db, defaultPrices, day)).toBe(1)
    expect(await chargeStorage(db, defaultPrices, new Date('2026-03-01T23:59:59Z'))).toBe(0)
    // 100 GB at $0.05 a GB and month.
    const aDay = 164_274n
    expect(await balanceOf(db, account.id)).toEqual({
      balanceMicros: 100_000n - aDay,
      heldMicros: 0n,
      spentMicros: aDay,
    })
    expect(await chargeStorage(db, defaultPrices, new Date('2026-03-02T00:00:00Z'))).toBe(1)
    expect(await usage(db, account)).toMatchObject({
      images: 0,
      spentMicros: 2n * aDay,
      storageMicros: 2n * aDay,
      storedBytes: 150_000_000_010,
    })
  })
})

it('the price of storage is by the byte, and rounded half up', () => {
  const gb = 1_000_000_000n
  expect(storagePrice(defaultPrices, 50n * gb)).toBe(0n)
  expect(storagePrice(defaultPrices, 51n * gb)).toBe(1643n)
  expect(storagePrice(defaultPrices, 50n * gb + 304_000n)).toBe(0n)
  expect(storagePrice(defaultPrices, 50n * gb + 305_000n)).toBe(1n)
})

it('one process takes uploads and another inspects them', async () => {
  await using database = await makeDatabase('postgres')
  const folder = await temporaryFolder('assets')
  await using door = await openOffice(database.place, path.join(folder, 'files'))
  await using worker = await openOffice(database.place, path.join(folder, 'files'))
  await worker.run({ cacheDir: path.join(folder, 'cache') })
  await using library = await openAssetLibrary({ ...door.context, remote: { urls: null, hub: null } })
  const account = await newAccount(door.database)
  const asset = await library.create(account, newAsset('far'), source)
  await library.receive(asset.id, bytesOf('good far'))
  const completed = await library.complete(account, asset.id, new AbortController().signal)
  expect(completed).toMatchObject({ status: 'ready', report: { architecture: 'Stable Diffusion XL' } })
})

describe('files of a bucket', () => {
  it('are fetched once, checked, and evicted when they were not used for long', async () => {
    await using s3 = await startS3()
    const store = await openS3BlobStore(await s3.makeBucket('assets'))
    onTestFinished(() => store[Symbol.dispose]())
    const cacheDir = await temporaryFolder('cache')
    const files = new AssetFiles({ blobs: store, cacheDir, cacheLimitBytes: 1500 })
    const large = Buffer.alloc(40 * 2 ** 20, 7)
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < large.length; at += 999_999) yield large.subarray(at, at + 999_999)
    }
    await store.write('assets/large', pieces())
    const read = await Array.fromAsync((await store.read('assets/large'))!)
    expect(Buffer.compare(Buffer.concat(read), large)).toBe(0)
    const tail = await Array.fromAsync((await store.read('assets/large', large.length - 5))!)
    expect(Buffer.concat(tail)).toHaveLength(5)
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield* pieces()
      throw new Error('broke off')
    }
    await expect(store.write('assets/broken', failing())).rejects.toThrow('broke off')
    expect(await store.get('assets/broken')).toBeNull()
    const put = async (text: string) => {
      const hash = createHash('sha256').update(text).digest('hex')
      const key = `assets/${hash.slice(0, 8)}`
      await store.put(key, Buffer.from(text))
      return { hash, key }
    }
    const [first, second, third] = [await put('a'.repeat(1000)), await put('b'.repeat(1000)), await put('c')]
    const [one, again] = await Promise.all([files.placeOf(first), files.placeOf(first)])
    expect(one).toBe(again)
    expect(await readFile(one, 'utf8')).toBe('a'.repeat(1000))
    await store.delete([first.key])
    expect(await files.placeOf(first)).toBe(one)
    // Too much, but both were just used.
    const two = await files.placeOf(second)
    expect(await stat(one)).toBeTruthy()
    const longAgo = new Date(Date.now() - 3_600_000)
    await utimes(one, longAgo, longAgo)
    await files.placeOf(third)
    await expect(stat(one)).rejects.toThrow('ENOENT')
    expect(await stat(two)).toBeTruthy()
    await expect(files.placeOf({ hash: 'f'.repeat(64), key: second.key })).rejects.toMatchObject({
      code: 'storage_unavailable',
    })
    await expect(files.placeOf({ hash: 'e'.repeat(64), key: 'assets/none' })).rejects.toMatchObject({
      code: 'internal',
    })
  })
})
