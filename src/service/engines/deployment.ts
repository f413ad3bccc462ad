// What this deployment computes: its models by the hash of their weights, and its one precision. Both are part of a
// queue's name, so that a job reaches only workers that make the same picture of it.
import { EngineProcess, type StartOptions } from '#worker/engine-process.ts'
import type { ContentHash, EngineChoice, EngineSettings, GenerateTask } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'

/** A model file or folder of this machine; the hash does not depend on the layout. */
export type ServedModel = { readonly path: string; readonly hash: ContentHash }

/** Fixed for the life of a server or worker. */
export type Deployment = EngineChoice & {
  readonly model: ServedModel
  readonly refiner: ServedModel | null
}

/** Files of the deployment that the jobs of one queue may need. */
export type QueueModels = { readonly checkpoint: string; readonly refiner: string | null }

/**
 * Queues for jobs with checkpoints of the library, whatever their number: each checkpoint has its queue among these, so
 * that a process which has it loaded goes on with it.
 */
const customQueues = 4

/**
 * Open and hash the models in an engine process, once. Throws `device_unavailable`, `model_not_found`, `bad_file`, `wrong_architecture`,
 * `missing_tensors`, and what starting an engine throws.
 */
export async function inspectDeployment(
  settings: Omit<EngineSettings, 'scratchDir'>,
  paths: { readonly model: string; readonly refiner: string | null },
  options: StartOptions = {},
): Promise<Deployment> {
  await using engine = await EngineProcess.start(settings, options)
  const choice = await engine.choose({ signal: options.signal })
  if (choice.backend === 'onnxruntime' && settings.device !== 'cpu') await requireDevice(engine, settings.device)
  const inspect = async (path: string, isRefiner: boolean): Promise<ServedModel> => {
    const { modelHash, report, unusable } = await engine.inspect(path, { signal: options.signal })
    if (unusable) throw new AppError(unusable.code, unusable.message)
    if (modelHash === null || (report.kind === 'refiner') !== isRefiner)
      throw new AppError(
        'wrong_architecture',
        `${isRefiner ? 'refiner' : 'model'} ${path}: this is ${report.architecture}`,
      )
    return { path, hash: modelHash }
  }
  const model = await inspect(paths.model, false)
  const refiner = paths.refiner === null ? null : await inspect(paths.refiner, true)
  return { ...choice, model, refiner }
}

/** A worker that cannot compute takes no jobs: it does not start. */
async function requireDevice(engine: EngineProcess, device: EngineSettings['device']): Promise<void> {
  const { providers } = await engine.probe()
  const found = providers.find((provider) => provider.device === device)
  if (!found?.loads)
    throw new AppError('device_unavailable', `device ${device}: ${found?.reason ?? 'is not part of this onnxruntime'}`)
}

/** The queue that a task belongs into. */
export function queueFor(deployment: Deployment, task: Pick<GenerateTask, 'refiner' | 'checkpoint'>): string {
  if (task.checkpoint !== null) return customQueue(deployment, parseInt(task.checkpoint.slice(0, 8), 16) % customQueues)
  return queueName(deployment, task.refiner ? deployment.refiner : null)
}

/** All queues of the deployment with the files that their jobs need. */
export function queuesOf(deployment: Deployment): ReadonlyMap<string, QueueModels> {
  const { model, refiner } = deployment
  const queues = new Map([[queueName(deployment, null), { checkpoint: model.path, refiner: null as string | null }]])
  if (refiner) queues.set(queueName(deployment, refiner), { checkpoint: model.path, refiner: refiner.path })
  for (let index = 0; index < customQueues; index++)
    queues.set(customQueue(deployment, index), { checkpoint: model.path, refiner: refiner?.path ?? null })
  return queues
}

function customQueue(deployment: Deployment, index: number): string {
  const { model, refiner } = deployment
  const models = refiner ? `${short(model)}-${short(refiner)}` : short(model)
  return `generate/${models}-custom${index}/${arithmeticName(deployment)}`
}

function queueName(deployment: Deployment, refiner: ServedModel | null): string {
  const { model } = deployment
  const models = refiner ? `${short(model)}-${short(refiner)}` : short(model)
  return `generate/${models}/${arithmeticName(deployment)}`
}

/** The precision; each backend has its own way to int8, and so its own pictures. */
function arithmeticName({ backend, precision }: EngineChoice): string {
  return precision === 'int8' ? `${precision}-${backend}` : precision
}

function short({ hash }: ServedModel): string {
  return hash.slice(0, 16)
}
