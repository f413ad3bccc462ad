// `sepia worker`: makes the pictures of requests that `sepia serve --role api` accepted, until it is told to end.
import { once } from 'node:events'
import { startJobRunner } from '#service/jobs/job-runner.ts'
import { serveMetrics } from '#service/metrics-server.ts'
import { openOffice } from '../app.ts'
import type { Config } from '../config.ts'
import { resolveWorker, type WorkerOptions } from './service-options.ts'
import type { Terminal } from './terminal.ts'

/** Work on jobs; returns when what ran has ended or was given back. Throws what keeps it from starting. */
export async function work(options: WorkerOptions, config: Config, terminal: Terminal): Promise<void> {
  const resolved = resolveWorker(options, config)
  const { signal, urgent, engineEntry } = terminal
  await using resources = new AsyncDisposableStack()
  const office = await openOffice(resolved, { signal, engineEntry }, resources)
  const { engine: settings, engines, graceMs, memoryLimitBytes, metrics } = resolved
  const { deployment } = office
  const { backend, precision } = deployment
  if (metrics) resources.use(await serveMetrics(office.metrics, metrics, office.log))
  await using runner = await startJobRunner(office, {
    deployment,
    engines,
    settings: { ...settings, backend, precision },
    memoryLimitBytes,
    engineEntry,
  })
  terminal.stdout.write(
    `Sepia works on requests for ${resolved.model} with ${engines} engine${engines > 1 ? 's' : ''}, ${backend} in ${precision}\n`,
  )
  if (!signal.aborted) await once(signal, 'abort')
  const hurry = urgent ? once(urgent, 'abort') : new Promise(() => {})
  // Disposal gives back at once what still runs.
  if (!urgent?.aborted) await Promise.race([runner.drain(graceMs), hurry])
}
