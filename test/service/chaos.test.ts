import { expect, it } from 'vitest'
import { runChaos } from '../../bench/chaos/run.ts'
import { databaseKinds } from '../support/test-database.ts'

/** Real servers, workers and databases; `bench/chaos.ts` does the same for hours. */
it.each(databaseKinds)(
  'whatever is killed, nothing is lost and nothing is charged twice: %s',
  async (shape) => {
    const report = await runChaos({ shape, kills: 10, seed: 4 })
    if (report.violations.length > 0) process.stderr.write(report.lastWords)
    expect(report.violations).toEqual([])
    expect(report.succeeded).toBeGreaterThan(0)
    expect(Object.values(report.kills).reduce((sum, count) => sum + count)).toBe(10)
  },
  600_000,
)
