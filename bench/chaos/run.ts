// The storm: clients at work, and one kill after the other at moments that a seed decides.
import { setTimeout as pause } from 'node:timers/promises'
import { audit, type Audit } from './audit.ts'
import { runClients } from './clients.ts'
import { seeded } from './random.ts'
import { openStage, type Shape, type Victim } from './stage.ts'

/** What to do. */
export type ChaosOptions = {
  readonly shape: Shape
  readonly kills: number
  readonly seed: number
  readonly clients?: number
  readonly model?: string | undefined
  onKill?(kill: number, victim: Victim): void
}

/** What came of it. */
export type ChaosReport = Audit & {
  readonly kills: Readonly<Record<Victim, number>>
  /** Beside these, processes that were killed again while they started. */
  readonly killedAtStart: number
  readonly seconds: number
  /** What the processes said last, for whoever looks for a cause. */
  readonly lastWords: string
}

/** Let clients work while parts of the service are killed, then wait for peace and compare. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { clients = 5, kills, seed, shape } = options
  const startMs = performance.now()
  await using stage = await openStage(shape, options.model)
  const killed: Record<Victim, number> = { server: 0, worker: 0, engine: 0, database: 0 }
  const random = seeded(seed)
  const stop = new AbortController()
  const clientsAtWork = runClients(stage, clients, (client) => seeded(seed * 1000 + client), stop.signal)
  // A client that fails ends the storm.
  const storm = async (): Promise<void> => {
    let kill = 1
    while (kill <= kills) {
      // Mostly soon, sometimes late enough for what was begun to end.
      await pause(random() ** 2 * 5000)
      const done = await stage.kill(random)
      if (!done) continue
      killed[done.victim]++
      options.onKill?.(kill, done.victim)
      kill++
      await done.back
    }
    stop.abort()
  }
  const [orders] = await Promise.all([clientsAtWork, storm()])
  const lastWords = stage.lastWords()
  await stage.stop()
  await using kept = await stage.open()
  const found = await audit(kept, orders, stage.cacheDir)
  const { killedAtStart } = stage
  return { ...found, kills: killed, killedAtStart, seconds: (performance.now() - startMs) / 1000, lastWords }
}
