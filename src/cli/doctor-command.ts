// `sepia doctor`: what doctor.ts finds here, and what an engine process finds about its backend.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { EngineProcess } from '#worker/engine-process.ts'
import type { Config } from '../config.ts'
import { renderDoctor, runDoctor, type BackendReport } from './doctor.ts'
import { resolveEngine, type EngineOptions, type EngineOrder } from './generate-options.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia doctor`, as typed. */
export type DoctorOptions = Pick<EngineOptions, 'cache'> & { readonly json?: boolean }

/** Print the report on this machine. Throws `engine_crashed` when no engine process can run. */
export async function doctor(options: DoctorOptions, config: Config, terminal: Terminal): Promise<void> {
  const settings = resolveEngine(options, config)
  const report = await runDoctor(settings, await probe(settings, terminal))
  terminal.stdout.write(`${options.json ? JSON.stringify(report) : renderDoctor(report)}\n`)
}

async function probe(settings: EngineOrder, { signal, engineEntry: entry }: Terminal): Promise<BackendReport> {
  // A machine whose cache cannot be written is one that wants a doctor: the process gets another folder.
  const folder = await mkdtemp(path.join(tmpdir(), 'sepia-doctor-'))
  try {
    await using engine = await EngineProcess.start({ ...settings, cacheDir: folder }, { signal, entry })
    const { choice, onnxruntimeVersion, openvino, providers } = await engine.probe({ signal })
    return {
      onnxruntimeVersion,
      openvino,
      choice,
      providers: providers.map(({ device, loads, reason }) =>
        reason === null ? { name: device, loads } : { name: device, loads, reason },
      ),
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
