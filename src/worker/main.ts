// The engine process: the child program that worker/engine-process.ts starts. The modules that load onnxruntime are
// imported by the tasks that compute, so that an inspection starts without it.
import type { ComponentName } from '#engine/weights/checkpoint.ts'
import { componentHash, modelHash } from '#engine/weights/hash.ts'
import { inspectFile } from '#engine/weights/inspect.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { AppError } from '../errors.ts'
import type { PipelineCache } from './pipeline-cache.ts'
import type { EngineSettings, InspectResult, Progress } from './protocol.ts'
import { serveRequests, type Engine } from './request-loop.ts'

serveRequests((settings): Engine => {
  let pipelines: PipelineCache | null = null
  return {
    async generate(task, files, hooks) {
      const [{ runGenerate }, { PipelineCache }] = await Promise.all([
        import('./run-generate.ts'),
        import('./pipeline-cache.ts'),
      ])
      pipelines ??= new PipelineCache(settings)
      pipelines.resume()
      return runGenerate(task, files, { pipelines, ...hooks })
    },
    inspect: (path, hooks) => inspect(path, settings, hooks.onProgress),
    async inspectAsset(asset) {
      const { inspectAsset } = await import('./inspect-asset.ts')
      return inspectAsset(asset)
    },
    cancel: () => pipelines?.interrupt(),
    async quantize(path, { onProgress }) {
      const [{ quantizeModel }, { PipelineCache }] = await Promise.all([
        import('./quantize-model.ts'),
        import('./pipeline-cache.ts'),
      ])
      pipelines ??= new PipelineCache(settings)
      pipelines.resume()
      return quantizeModel(path, pipelines, onProgress)
    },
    async choose() {
      const { chooseEngine } = await import('./engine-choice.ts')
      const { backend, precision } = await chooseEngine(settings)
      return { backend, precision }
    },
    async probe() {
      const { probeEngines } = await import('./probe-engines.ts')
      return probeEngines(settings)
    },
    async [Symbol.asyncDispose]() {
      await pipelines?.[Symbol.asyncDispose]()
    },
  }
})

async function inspect(
  path: string,
  settings: EngineSettings,
  onProgress: (progress: Progress) => void,
): Promise<InspectResult> {
  const report = await inspectFile(path)
  let checkpoint
  try {
    checkpoint = await openCheckpoint(path)
  } catch (error) {
    // A file that is no model of ours is described all the same; why it is not usable is part of the description.
    if (!(error instanceof AppError)) throw error
    return { report, modelHash: null, componentHashes: {}, unusable: { code: error.code, message: error.message } }
  }
  const componentHashes: Partial<Record<ComponentName, string>> = {}
  for (const component of [checkpoint.textEncoder, checkpoint.textEncoder2, checkpoint.unet, checkpoint.vae]) {
    if (!component) continue
    componentHashes[component.name] = await componentHash(component, {
      cacheDir: settings.cacheDir,
      scratchDir: settings.scratchDir,
      onProgress: (doneBytes, totalBytes) =>
        onProgress({ phase: 'hash', component: component.name, doneBytes, totalBytes }),
    })
  }
  return { report, modelHash: modelHash(componentHashes), componentHashes, unusable: null }
}
