// Kills parts of the service at random moments under load, restarts them, and compares tables, ledger, files and what
// clients saw:
//
//   npx node bench/chaos.ts [--kills 300] [--seed 1] [--shape pglite|postgres] [--clients 5] [--model FOLDER]
import { parseArgs } from 'node:util'
import { runChaos } from './chaos/run.ts'
import type { Shape } from './chaos/stage.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '300' },
    seed: { type: 'string', default: '1' },
    shape: { type: 'string' },
    clients: { type: 'string', default: '5' },
    model: { type: 'string' },
  },
})
const shapes: readonly Shape[] = values.shape === undefined ? ['pglite', 'postgres'] : [values.shape as Shape]
const head = [
  'shape',
  'kills',
  'of these',
  'orders',
  'succeeded',
  'failed',
  'cancelled',
  'again',
  'swept',
  's',
  'wrong',
]
const rows: string[][] = []
for (const shape of shapes) {
  const report = await runChaos({
    shape,
    kills: Number(values.kills),
    seed: Number(values.seed),
    clients: Number(values.clients),
    model: values.model,
    onKill: (kill, victim) => process.stderr.write(`\r${shape}: kill ${kill}, ${victim}      `),
  })
  process.stderr.write('\n')
  const { cancelled, failed, killedAtStart, kills, orders, repeated, seconds, succeeded, swept, violations } = report
  const victims = Object.entries(kills).filter(([, count]) => count > 0)
  rows.push([
    shape,
    values.kills,
    [...victims, ['at start', killedAtStart]].map(([victim, count]) => `${victim} ${count}`).join(', '),
    ...[orders, succeeded, failed, cancelled, repeated, swept].map(String),
    seconds.toFixed(0),
    `${violations.length}`,
  ])
  if (violations.length > 0) {
    process.exitCode = 1
    process.stderr.write(`${violations.slice(0, 50).join('\n')}\n${report.lastWords}\n`)
  }
}
process.stdout.write(tableOf(head, rows))
