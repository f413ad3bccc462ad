import { lstatSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig, type Env } from '../../src/config.ts'
import { findAccount } from '../../src/service/accounts/account.ts'
import { authenticate, revokeToken } from '../../src/service/accounts/token.ts'
import { administer, type Administrator } from '../../src/service/admin/admin-command.ts'
import { findAdministrator, serveAdmin } from '../../src/service/admin/admin-socket.ts'
import { firstAccount } from '../../src/service/admin/first-account.ts'
import { balanceOf } from '../../src/service/billing/ledger.ts'
import { dataFolder } from '../../src/service/db/data-folder.ts'
import { openDatabase, type Database } from '../../src/service/db/database.ts'
import { makePlace, removePlace, sepia, type Outcome, type Place } from '../support/sepia-command.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { databaseKinds, makeDatabase, openTestDatabase, type TestDatabase } from '../support/test-database.ts'

describe.each(databaseKinds)('the first start (%s)', (kind) => {
  it('makes one account and one token, however many processes start', async () => {
    await using database = await openTestDatabase(kind)
    const { db } = database
    const made = await Promise.all(Array.from({ length: 4 }, () => firstAccount(db, null)))
    const firsts = made.filter((one) => one !== null)
    expect(firsts).toMatchObject([{ account: { name: 'default' } }])
    const [{ account, token }] = firsts
    expect(await authenticate(db, token)).toEqual(account)
    expect(await firstAccount(db, null)).toBeNull()
    expect(await firstAccount(db, token)).toBeNull()
  })

  it('takes the token that the operator gives, and refuses another one later', async () => {
    await using database = await openTestDatabase(kind)
    const { db } = database
    const given = 'a-token-from-the-environment'
    await expect(firstAccount(db, 'short')).rejects.toMatchObject({ code: 'bad_argument' })
    expect(await firstAccount(db, given)).toMatchObject({ token: given })
    expect(await firstAccount(db, given)).toBeNull()
    await expect(firstAccount(db, 'another-token-altogether')).rejects.toMatchObject({
      code: 'bad_argument',
      message: expect.stringMatching(/^SEPIA_TOKEN: /),
    })
    await revokeToken(db, given.slice(0, 7))
    expect(await firstAccount(db, given)).toBeNull()
    expect(await authenticate(db, given)).toBeNull()
  })
})

describe('commands', () => {
  let database: Database & TestDatabase
  beforeAll(async () => {
    database = await openTestDatabase('pglite')
  })
  afterAll(() => database[Symbol.asyncDispose]())

  it('are checked again, whoever sends them', async () => {
    const refusals: [unknown, RegExp][] = [
      [null, /^command: /],
      [{ command: 'dropTables' }, /^command: /],
      [{ command: 'listAccounts', extra: 1 }, /extra/],
      [{ command: 'createAccount', name: 'x', prepaid: 'yes' }, /^prepaid: /],
      [{ command: 'createAccount', name: 'two words' }, /^name: 1 to 64 letters/],
      [{ command: 'limitAccount', account: 'x', maxQueuedJobs: 1.5 }, /^maxQueuedJobs: /],
      [{ command: 'creditAccount', account: 'x', amountMicros: '1e3', reference: null }, /^amountMicros: /],
    ]
    for (const [command, message] of refusals)
      await expect(administer(database, command)).rejects.toMatchObject({
        code: 'bad_argument',
        message: expect.stringMatching(message),
      })
    await expect(administer(database, { command: 'createToken', account: 'nobody', name: 'x' })).rejects.toMatchObject({
      code: 'not_found',
      message: 'account: there is none with the id or name "nobody"',
    })
  })

  it('go through a socket that only its owner can open', async () => {
    const folder = await temporaryFolder('admin')
    const socket = path.join(folder, 'admin.sock')
    // As a killed server leaves it.
    writeFileSync(socket, '')
    expect(await findAdministrator(path.join(folder, 'nothing'))).toBeNull()
    let ask: Administrator
    {
      await using _ = await serveAdmin(database, socket)
      expect(lstatSync(socket).isSocket()).toBe(true)
      expect(lstatSync(socket).mode & 0o777).toBe(0o600)
      ask = (await findAdministrator(socket))!
      const account = await ask({ command: 'createAccount', name: 'socket', maxQueuedJobs: 3 })
      expect(account).toMatchObject({ name: 'socket', maxQueuedJobs: 3, balanceMicros: '0' })
      const credited = await ask({
        command: 'creditAccount',
        account: 'socket',
        amountMicros: '9007199254740993',
        reference: null,
      }).catch((error: unknown) => error)
      expect(credited).toMatchObject({ code: 'bad_argument', message: expect.stringMatching(/^amount: /) })
      await ask({ command: 'creditAccount', account: account.id, amountMicros: '12500000', reference: 'one' })
      expect((await balanceOf(database.db, account.id)).balanceMicros).toBe(12_500_000n)
      const { token } = await ask({ command: 'createToken', account: 'socket', name: 'x' })
      expect(await authenticate(database.db, token)).toMatchObject({ id: account.id })
      await expect(ask({ command: 'revokeToken', token: 'tok_none' })).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(await findAdministrator(socket)).toBeNull()
    await expect(ask({ command: 'listAccounts' })).rejects.toThrow(/ENOENT|ECONNREFUSED/)
  })

  it('need a path that a socket can have', async () => {
    await expect(serveAdmin(database, `/tmp/${'x'.repeat(100)}/admin.sock`)).rejects.toMatchObject({
      code: 'bad_argument',
      message: expect.stringMatching(/has at most 103 bytes, .* has 116$/),
    })
  })
})

/** Run the command line in this process. */
async function runHere(argv: readonly string[], env: Env): Promise<Outcome> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const { signal } = new AbortController()
  const code = await runCli(argv, { stdout, stderr, signal, urgent: signal }, () => resolveConfig(env))
  return { code, stdout: await text(stdout.end()), stderr: await text(stderr.end()) }
}

describe('sepia accounts and sepia tokens', () => {
  let database: Database & TestDatabase
  let dataDir: string
  let place: Place
  const run = (...argv: string[]): Promise<Outcome> => runHere([...argv, '--data', dataDir], {})
  const json = async (...argv: string[]): Promise<Record<string, unknown>> => {
    const { stdout, stderr } = await run(...argv, '--json')
    expect(stderr).toBe('')
    return JSON.parse(stdout) as Record<string, unknown>
  }

  beforeAll(async () => {
    place = makePlace()
    database = await openTestDatabase('pglite')
    dataDir = database.place.kind === 'pglite' ? database.place.dataDir : ''
  })
  afterAll(async () => {
    removePlace(place)
    await database[Symbol.asyncDispose]()
  })

  it('work beside a running server', async () => {
    await using _ = await serveAdmin(database, dataFolder(dataDir).adminSocket)
    const made = await run('accounts', 'create', 'ann', '--prepaid', '--running', '2')
    expect(made).toMatchObject({
      code: 0,
      stderr: '',
      stdout: expect.stringMatching(/^ID +NAME .*\nacct_\w+ +ann .*\n$/),
    })
    expect(await json('accounts', 'credit', 'ann', '12.50', '--reference', 'invoice-1')).toMatchObject({
      name: 'ann',
      balanceMicros: '12500000',
      reference: 'invoice-1',
    })
    expect(await json('accounts', 'limit', 'ann', '--queued', '7', '--running', 'none', '--no-prepaid')).toMatchObject({
      maxRunningJobs: null,
      maxQueuedJobs: 7,
      prepaid: false,
    })
    const { code, stdout } = await run('tokens', 'create', '--account', 'ann', '--name', 'laptop')
    expect(code).toBe(0)
    const token = stdout.trim()
    expect(await authenticate(database.db, token)).toMatchObject({ name: 'ann' })
    expect((await run('tokens', 'list')).stdout).toContain(token.slice(0, 12))
    expect((await run('tokens', 'list')).stdout).not.toContain(token.slice(0, 13))
    expect(await json('tokens', 'revoke', token.slice(0, 12))).toMatchObject({ account: 'ann', name: 'laptop' })
    expect(await authenticate(database.db, token)).toBeNull()
    expect(await json('accounts', 'list')).toMatchObject({ accounts: [{ name: 'ann' }] })
  })

  it('say what is wrong', async () => {
    const refusals: [string[], number, RegExp][] = [
      [['accounts', 'create', 'two words'], 2, /^sepia: name: 1 to 64 letters/],
      [
        ['accounts', 'create', 'x', '--running', '-1'],
        2,
        /^sepia: --running must be a whole number from 0 to 2147483647/,
      ],
      [['accounts', 'credit', 'x', '1,50'], 2, /^sepia: amount must be dollars such as 12.50, got "1,50"/],
      [['accounts', 'limit', 'x'], 2, /^sepia: give at least one of --requests-per-minute/],
      [['accounts', 'limit', 'x', '--prepaid'], 1, /^sepia: account: there is none with the id or name "x"/],
      [['tokens', 'create'], 1, /^sepia: account: there is none with the id or name "default"/],
      [['tokens', 'revoke', 'tok_x'], 1, /^sepia: token: there is none/],
    ]
    await using _ = await serveAdmin(database, dataFolder(dataDir).adminSocket)
    for (const [argv, code, message] of refusals)
      expect(await run(...argv)).toEqual({ code, stdout: '', stderr: expect.stringMatching(message) })
  })

  it('open the folder where no server runs, and wait for none that holds it', async () => {
    expect(await sepia(place, ['accounts', 'list', '--data', dataDir])).toEqual({
      code: 1,
      stdout: '',
      stderr: `sepia: data folder ${dataDir}: in use by process ${process.pid}\n`,
    })
    await using free = await makeDatabase('pglite')
    const freeDir = free.place.kind === 'pglite' ? free.place.dataDir : ''
    expect(await sepia(place, ['accounts', 'create', 'ann', '--data', freeDir])).toMatchObject({ code: 0 })
    await using opened = await openDatabase(free.place)
    expect(await findAccount(opened.db, 'ann')).toMatchObject({ name: 'ann' })
  })

  it('open the server that DATABASE_URL names', async () => {
    await using server = await openTestDatabase('postgres')
    const DATABASE_URL = server.place.kind === 'postgres' ? server.place.url : ''
    expect(await runHere(['accounts', 'create', 'bob'], { DATABASE_URL })).toMatchObject({ code: 0, stderr: '' })
    expect(await findAccount(server.db, 'bob')).toMatchObject({ name: 'bob' })
    expect(await runHere(['accounts', 'list', '--data', dataDir], { DATABASE_URL })).toEqual({
      code: 2,
      stdout: '',
      stderr: 'sepia: --data names a folder, but DATABASE_URL names a server; only one can be meant\n',
    })
  })

  it('make no data folder', async () => {
    const absent = path.join(place.folder, 'absent')
    expect(await runHere(['tokens', 'list', '--data', absent], {})).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^sepia: data folder .*: there is none yet; `sepia serve` makes it/),
    })
    expect(() => lstatSync(absent)).toThrow('ENOENT')
  })
})
