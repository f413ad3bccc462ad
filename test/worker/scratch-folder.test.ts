import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { noteLock } from '#engine/weights/lock-notes.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'

let cacheDir: string
beforeEach(async () => {
  cacheDir = join(await mkdtemp(join(tmpdir(), 'scratch-')), 'cache')
})
afterEach(() => rm(dirname(cacheDir), { recursive: true }))

/** A folder as another process would have made it; returns its path. */
async function leftBy(pid: number, host: string, ageMs = 0): Promise<string> {
  const folder = join(cacheDir, 'scratch', `${pid}-${host}-0123456789ab`)
  await mkdir(folder, { recursive: true })
  const file = join(folder, 'half.safetensors')
  await writeFile(file, 'half')
  const then = new Date(Date.now() - ageMs)
  for (const name of [file, folder]) await utimes(name, then, then)
  return folder
}

/** The id of a process that is no more. */
async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ['-e', '0'])
  await once(child, 'exit')
  return child.pid!
}

const day = 24 * 60 * 60 * 1000

describe('scratch folders', () => {
  it('are made below the cache under the id of the process, and removed with their content', async () => {
    const folder = await createScratch(cacheDir)
    expect(dirname(folder)).toBe(join(cacheDir, 'scratch'))
    expect(basename(folder)).toMatch(new RegExp(`^${process.pid}-[0-9a-f]{8}-[0-9a-f]{12}$`))
    await writeFile(join(folder, 'half'), 'half')
    await removeScratch(folder)
    expect(await readdir(join(cacheDir, 'scratch'))).toEqual([])
    await removeScratch(folder)
  })

  it('are swept when their process is gone, and only then', async () => {
    const ours = await createScratch(cacheDir)
    const host = basename(ours).split('-')[1]
    const dead = await leftBy(await deadPid(), host)
    const alive = await leftBy(process.ppid, host, 2 * day)
    // Process 1 lives and cannot be signalled by an ordinary user.
    const init = await leftBy(1, host)
    const foreign = await leftBy(await deadPid(), '00000000')
    const foreignOld = await leftBy(2, '00000001', 2 * day)
    const unknown = join(cacheDir, 'scratch', 'notes')
    await mkdir(unknown)
    const second = await createScratch(cacheDir)
    expect([dead, foreignOld].map((folder) => existsSync(folder))).toEqual([false, false])
    expect([ours, alive, init, foreign, unknown, second].filter((folder) => !existsSync(folder))).toEqual([])
  })

  it('take the locks of their process with them, and no others', async () => {
    const folder = await createScratch(cacheDir)
    const [ours, theirs, given] = ['a', 'b', 'c'].map((name) => join(cacheDir, `${name}.lock`))
    for (const lock of [ours, theirs]) await mkdir(lock)
    await noteLock(folder, ours)
    // Given back already, in the moment before the process died.
    await noteLock(folder, given)
    await removeScratch(folder)
    expect([ours, theirs].map((lock) => existsSync(lock))).toEqual([false, true])
    expect(await readdir(join(cacheDir, 'scratch'))).toEqual([])
  })

  it('of an earlier process with our own id are swept', async () => {
    const ours = await createScratch(cacheDir)
    const earlier = await leftBy(process.pid, basename(ours).split('-')[1])
    await createScratch(cacheDir)
    expect([existsSync(ours), existsSync(earlier)]).toEqual([true, false])
  })

  it('that cannot be made are told', async () => {
    await writeFile(cacheDir, 'a file')
    await expect(createScratch(cacheDir)).rejects.toMatchObject({
      code: 'cache_unwritable',
      message: `cache: cannot write in ${join(cacheDir, 'scratch')} (ENOTDIR); choose another folder`,
    })
  })
})
