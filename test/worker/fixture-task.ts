import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { EngineSettings, GenerateTask } from '#worker/protocol.ts'
import { pictureTask } from '../support/picture-task.ts'

/** The misbehaving child program. */
export const fixtureEntry = new URL('./fixture-engine.ts', import.meta.url)

/** Settings of an engine on one CPU thread. */
export function engineSettings(cacheDir: string): Omit<EngineSettings, 'scratchDir'> {
  return { device: 'cpu', backend: 'onnxruntime', precision: 'fp32', threads: 1, cacheDir, cacheLimitBytes: 1e9 }
}

/** A task whose prompt tells the fixture engine how to behave. */
export function taskFor(behaviour: string, seeds: readonly number[] = [1]): GenerateTask {
  return pictureTask({
    prompt: behaviour,
    width: 64,
    height: 64,
    numInferenceSteps: 1,
    guidanceScale: 7,
    sampler: 'DDIM',
    seeds,
  })
}

/** Whether a process runs; one that only waits for its parent to take its exit code does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return process.platform !== 'linux' || !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

/** Milliseconds until `condition` holds; throws when it does not within `limitMs`. */
export async function timeUntil(condition: () => boolean, limitMs: number): Promise<number> {
  const startMs = performance.now()
  while (!condition()) {
    if (performance.now() - startMs > limitMs) throw new Error(`not so within ${limitMs} ms`)
    await sleep(10)
  }
  return performance.now() - startMs
}
