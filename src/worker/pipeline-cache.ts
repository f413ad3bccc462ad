// What an engine process keeps between tasks: opened models, and networks that are loaded. A network is known by the
// content hash of its component and the options of its graph, so another VAE leaves the UNet where it is, and the same
// weights in another file are not loaded again.
import type { PreviewProjection } from '#diffusion/preview.ts'
import { tryBackend } from '#engine/backends/try-backend.ts'
import { privateWeightBytes, type NetworkSource } from '#engine/networks/network-source.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { Checkpoint, Component, ComponentName } from '#engine/weights/checkpoint.ts'
import { componentHash, modelHash } from '#engine/weights/hash.ts'
import { readBranches, type LoraBranches } from '#engine/weights/lora/lora-branches.ts'
import { variantOf, type NetworkLoras } from '#engine/weights/lora/network-loras.ts'
import { quantizationDigest, type Quantization } from '#engine/quantize/quantization.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { networkArithmetic, type ChosenEngine } from './engine-choice.ts'
import { componentsOf, signatureOf } from './model-files.ts'
import { networkQuantization } from './network-quantization.ts'
import { networkWeights } from './network-weights.ts'
import { openEngine, type OpenEngine } from './open-backend.ts'
import { ownMemory } from './private-memory.ts'
import type { EngineSettings, Progress } from './protocol.ts'

/** A model's files, opened and hashed. */
export type OpenModel = {
  readonly checkpoint: Checkpoint
  readonly hashes: ReadonlyMap<ComponentName, string>
  /** The identity of the weights, whatever layout they are stored in. */
  readonly modelHash: string
}

export type NetworkKind = 'textEncoder' | 'unet' | 'vaeDecoder' | 'vaeEncoder'

/** How one kind of network is loaded from a component. */
export type NetworkRequest<Config, Options, Network> = {
  readonly kind: 'textEncoder' | 'unet' | 'observedUNet' | 'vaeDecoder' | 'vaeEncoder'
  readonly component: Component<Config>
  readonly options: Options
  /** `loraTargets`: the modules that are to take branches. */
  load(source: NetworkSource<Config>, options: Options, loraTargets: ReadonlySet<string>): Promise<Network>
  /** Memory that it takes beside its weights, in bytes. */
  readonly activationBytes: number
  /** What the task's LoRAs do to it; absent or null where nothing. */
  readonly loras?: NetworkLoras | null
  /** How it is quantised, where that is not the precision's own way; null: not at all. */
  readonly quantization?: Quantization | null
}

/** A network that LoRAs may change. */
type CachedNetwork = AsyncDisposable & { setLoras?(branches: LoraBranches): void }

/** A network, its hold on the files that it is mapped from, and the LoRAs behind its branches. */
type LoadedNetwork = {
  readonly network: CachedNetwork
  readonly prepared: Disposable
  branchHash: string | null
}

/** Opened models whose headers are kept. */
const maxCheckpoints = 8

/**
 * Networks of one component and size that differ by their LoRAs alone: those that were used last stay. LoRAs on the
 * same modules share one, as long as nothing has to be added to the weights.
 */
const maxLoraVariants = 2

/** Memory that stays free for everything else on the machine, in bytes. */
const reserveBytes = 512 << 20

export class PipelineCache implements AsyncDisposable {
  readonly settings: EngineSettings
  readonly #checkpoints = new Map<string, { readonly signature: string; readonly checkpoint: Checkpoint }>()
  readonly #models = new WeakMap<Checkpoint, OpenModel>()
  /** In the order of use, the most recent last. */
  readonly #networks = new Map<string, LoadedNetwork>()
  /** Content hash of a VAE → how its latents are shown. */
  readonly #previews = new Map<string, PreviewProjection>()
  readonly #availableBytes: () => number
  #engine: Promise<OpenEngine> | null = null
  #interruptible: OpenEngine['interruptible'] = null
  #tried: Promise<void> | null = null

  /** `freeBytes` is what the machine, or this process's container, could still give. */
  constructor(settings: EngineSettings, overrides: { freeBytes?: () => number } = {}) {
    const { memoryLimitBytes } = settings
    const freeBytes = overrides.freeBytes ?? (() => process.availableMemory())
    this.settings = settings
    this.#availableBytes = () => {
      const free = freeBytes() - reserveBytes
      return memoryLimitBytes === undefined ? free : Math.min(free, memoryLimitBytes - ownMemory())
    }
  }

  /** What the networks are computed with. Throws `device_unavailable` when what the settings ask for cannot be had. */
  async choice(): Promise<ChosenEngine> {
    return (await this.#open()).choice
  }

  /** Why `auto` passed over an OpenVINO that is there; empty where it did not. */
  async choiceFault(): Promise<readonly string[]> {
    const { backend, openvino, precision } = await this.choice()
    if (backend === 'openvino' || !openvino || !('fault' in openvino)) return []
    return [`computed on onnxruntime in ${precision}, because of ${openvino.fault.message}`]
  }

  /** Stop what runs, where the backend can; everything else that needs it rejects with `cancelled` until {@link resume}. */
  interrupt(): void {
    this.#interruptible?.interrupt()
  }

  /** Begin another task after an interruption. */
  resume(): void {
    this.#interruptible?.resume()
  }

  /** Whether {@link interrupt} stops a running inference. */
  get isInterruptible(): boolean {
    return this.#interruptible !== null
  }

  /**
   * The model at `path`, of whose weights nothing is read yet; opened again when its files have changed. `servedModel` is
   * the one whose tokenizer a single file without its own may take.
   */
  async checkpoint(path: string, servedModel?: string): Promise<Checkpoint> {
    const known = this.#checkpoints.get(path)
    if (known && known.signature === (await signatureOf(known.checkpoint))) {
      this.#checkpoints.delete(path)
      this.#checkpoints.set(path, known)
      return known.checkpoint
    }
    const served = servedModel === undefined || servedModel === path ? null : await this.checkpoint(servedModel)
    const checkpoint = await openCheckpoint(path, served?.tokenizer2)
    this.#checkpoints.delete(path)
    this.#checkpoints.set(path, { signature: await signatureOf(checkpoint), checkpoint })
    for (const oldest of this.#checkpoints.keys()) {
      if (this.#checkpoints.size <= maxCheckpoints) break
      this.#checkpoints.delete(oldest)
    }
    return checkpoint
  }

  /** The model at `path` with the hashes of its weights, which are read for it the first time. */
  async open(path: string, onProgress: (progress: Progress) => void, servedModel?: string): Promise<OpenModel> {
    const checkpoint = await this.checkpoint(path, servedModel)
    const known = this.#models.get(checkpoint)
    if (known) return known
    // A device that does not work is told before the weights are read.
    const { backends, choice } = await this.#open()
    this.#tried ??= tryBackend(backends[choice.backend]!)
    await this.#tried
    const hashes = new Map<ComponentName, string>()
    for (const component of componentsOf(checkpoint))
      hashes.set(component.name, await this.#hash(component, onProgress))
    const model = { checkpoint, hashes, modelHash: modelHash(Object.fromEntries(hashes)) }
    this.#models.set(checkpoint, model)
    return model
  }

  /** The model with another VAE in place of its own. */
  async withVae(
    model: OpenModel,
    vae: Component<VaeConfig>,
    onProgress: (progress: Progress) => void,
  ): Promise<OpenModel> {
    const hashes = new Map(model.hashes).set('vae', await this.#hash(vae, onProgress))
    return { ...model, checkpoint: { ...model.checkpoint, vae }, hashes }
  }

  #open(): Promise<OpenEngine> {
    this.#engine ??= openEngine(this.settings).then((engine) => {
      this.#interruptible = engine.interruptible
      return engine
    })
    return this.#engine
  }

  #hash(component: Component<object>, onProgress: (progress: Progress) => void): Promise<string> {
    const { cacheDir, scratchDir } = this.settings
    const report = (doneBytes: number, totalBytes: number): void =>
      onProgress({ phase: 'hash', component: component.name, doneBytes, totalBytes })
    return componentHash(component, { cacheDir, scratchDir, onProgress: report })
  }

  /** A network of the model: from memory, or prepared, loaded and kept. */
  async network<Config extends object, Options, Network extends CachedNetwork>(
    model: OpenModel,
    request: NetworkRequest<Config, Options, Network>,
    onProgress: (progress: Progress) => void,
  ): Promise<Network> {
    const { activationBytes, component, kind, loras = null, options } = request
    const hash = model.hashes.get(component.name)!
    const { backends, choice } = await this.#open()
    const { backend: name, precision, arithmetic } = networkArithmetic(component.name, choice, this.settings.device)
    const backend = backends[name]!
    // What is tried while a network is calibrated is not wanted again.
    const isUsual = request.quantization === undefined
    const quantization = isUsual
      ? await networkQuantization(component, hash, choice, this.settings.cacheDir)
      : (request.quantization ?? undefined)
    const rounding = quantization ? `int8 ${quantizationDigest(quantization)} ` : ''
    const plainKey = `${kind} ${hash} ${precision} ${arithmetic} ${rounding}${JSON.stringify(options)}`
    const key = loras === null ? plainKey : `${plainKey} loras ${variantOf(loras)}`
    const known = this.#networks.get(key)
    if (known) {
      this.#networks.delete(key)
      this.#networks.set(key, known)
      await this.#setBranches(key, known, loras)
      return known.network as Network
    }
    const { cacheDir, cacheLimitBytes: limitBytes, scratchDir } = this.settings
    const report = (doneBytes: number, totalBytes: number): void =>
      onProgress({ phase: 'prepare', component: component.name, doneBytes, totalBytes })
    const prepared = await networkWeights(
      { component, hash, precision, quantization, loras },
      { cacheDir, scratchDir, limitBytes, onProgress: report },
    )
    const { weights } = prepared
    try {
      if (loras !== null) await this.#closeVariants(`${plainKey} loras `)
      await this.makeRoom(
        activationBytes + privateWeightBytes(weights, { arithmetic, backend, precision, quantization }),
      )
      onProgress({ phase: 'load', component: component.name })
      const network = await request.load(
        { backend, config: component.config, weights, precision, arithmetic, quantization, keepCompiled: isUsual },
        options,
        new Set(loras?.targets),
      )
      const loaded = { network, prepared, branchHash: null }
      this.#networks.set(key, loaded)
      await this.#setBranches(key, loaded, loras)
      return network
    } catch (error) {
      if (!this.#networks.has(key)) prepared[Symbol.dispose]()
      throw error
    }
  }

  /** Give a network the branches of a task's LoRAs, unless it has them. */
  async #setBranches(key: string, loaded: LoadedNetwork, loras: NetworkLoras | null): Promise<void> {
    if (loras === null || loras.branches.length === 0 || loaded.branchHash === loras.branchHash) return
    await this.makeRoom(loras.branchBytes, key)
    const branches = await readBranches(loras.branches)
    loaded.network.setLoras?.(branches)
    loaded.branchHash = loras.branchHash
  }

  /** Close the least recently used networks whose keys begin so, until there is a place for one more. */
  async #closeVariants(prefix: string): Promise<void> {
    const variants = [...this.#networks].filter(([key]) => key.startsWith(prefix))
    for (const [key, loaded] of variants.slice(0, Math.max(0, variants.length + 1 - maxLoraVariants))) {
      this.#networks.delete(key)
      await close(loaded)
    }
  }

  /** How the latents of the VAE with this content hash are shown; fitted once. */
  async previewProjection(vaeHash: string, fit: () => Promise<PreviewProjection>): Promise<PreviewProjection> {
    const known = this.#previews.get(vaeHash)
    if (known) return known
    const projection = await fit()
    this.#previews.set(vaeHash, projection)
    return projection
  }

  /**
   * Release networks, the least recently used first and never the one under `kept`, until `neededBytes` are available;
   * returns how many are then.
   */
  async makeRoom(neededBytes: number, kept?: string): Promise<number> {
    for (const [key, loaded] of this.#networks) {
      if (this.#availableBytes() >= neededBytes) break
      if (key === kept) continue
      this.#networks.delete(key)
      await close(loaded)
    }
    return this.#availableBytes()
  }

  /** Release all networks of some kinds where the process is for a single task. */
  async closeAfterUse(...kinds: NetworkKind[]): Promise<void> {
    if (!this.settings.singleTask) return
    for (const [key, loaded] of this.#networks) {
      if (!kinds.some((kind) => key.startsWith(`${kind} `))) continue
      this.#networks.delete(key)
      await close(loaded)
    }
  }

  /** Kinds and options of the loaded networks, the least recently used first. */
  get loaded(): string[] {
    return [...this.#networks.keys()]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const loaded of this.#networks.values()) await close(loaded)
    this.#networks.clear()
  }
}

async function close({ network, prepared }: LoadedNetwork): Promise<void> {
  using _file = prepared
  await network[Symbol.asyncDispose]()
}
