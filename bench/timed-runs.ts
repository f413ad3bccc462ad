// Seconds of several runs of the same work in this process: all at once, or one each time that a line comes in, so that
// another program can let processes take turns.
import { createInterface } from 'node:readline'

/**
 * Seconds of each run. With `turns` it tells "ready" in a line of stdout, runs once for every line of stdin until that ends,
 * and tells "done" after each; otherwise it runs `runs` times.
 */
export async function timedRuns(runs: number, turns: boolean, work: () => Promise<void>): Promise<number[]> {
  const seconds: number[] = []
  const once = async (): Promise<void> => {
    const start = performance.now()
    await work()
    seconds.push((performance.now() - start) / 1000)
  }
  if (!turns) {
    while (seconds.length < runs) await once()
    return seconds
  }
  process.stdout.write('ready\n')
  for await (const _ of createInterface({ input: process.stdin })) {
    await once()
    process.stdout.write('done\n')
  }
  return seconds
}
