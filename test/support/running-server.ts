// `sepia serve` in a process of its own, as an operator starts it.
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { makePlace, removePlace, sepia, startSepia, type Outcome, type Place, type Started } from './sepia-command.ts'

/** A model whose pictures of 1024×1024 take a moment. */
export const tinyWide = fileURLToPath(new URL('../golden/wide-model/tiny-wide', import.meta.url))

/** A server that listens; disposal ends it, and removes its place unless that was given. */
export type RunningServer = AsyncDisposable & {
  readonly url: string
  /** Of the account "default". */
  readonly token: string
  readonly place: Place
  readonly started: Started
  /** What it has printed. */
  readonly greeting: string
  /** What it has logged, as objects. */
  log(): readonly Readonly<Record<string, unknown>>[]
  /** Run an administration command beside it; gives what it prints with --json. */
  administer(...argv: readonly string[]): Promise<unknown>
  /** SIGTERM; resolves when it has ended. */
  stop(): Promise<Outcome>
}

/** Start a server on a free port with the tiny model. Rejects with what it says when it ends instead of listening. */
export async function startServer(
  argv: readonly string[] = [],
  { place: given, env = {} }: { place?: Place; env?: Readonly<Record<string, string>> } = {},
): Promise<RunningServer> {
  const place = given ?? makePlace()
  const data = path.join(place.folder, 'data')
  const started = startSepia(
    place,
    ['serve', '--port', '0', '--data', data, '--model', tinyWide, '--threads', '1', ...argv],
    { env },
  )
  const greeting = await greetingOf(started)
  const end = async (signal: NodeJS.Signals): Promise<Outcome> => {
    if (started.child.exitCode === null) started.child.kill(signal)
    return started.ended
  }
  return {
    url: /listens at (\S+),/.exec(greeting)![1],
    token: /^ {2}(sepia_\S+)$/m.exec(greeting)?.[1] ?? '',
    place,
    started,
    greeting,
    log: () =>
      started
        .stderr()
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    async administer(...command) {
      const { code, stdout, stderr } = await sepia(place, [...command, '--data', data, '--json'])
      if (code !== 0) throw new Error(`sepia ${command.join(' ')}: ${stdout}${stderr}`)
      return JSON.parse(stdout) as unknown
    },
    stop: () => end('SIGTERM'),
    async [Symbol.asyncDispose]() {
      await end('SIGKILL')
      if (!given) removePlace(place)
    },
  }
}

/** All that the server prints when it has started. */
function greetingOf({ child, ended }: Started): Promise<string> {
  let text = ''
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  child.stdout!.on('data', (more: string) => {
    text += more
    if (text.includes('listens at') && text.endsWith('\n')) resolve(text)
  })
  ended.then(({ code, stderr }) => reject(new Error(`the server ended with ${code}: ${stderr}`)), reject)
  return promise
}
