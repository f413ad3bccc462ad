// `sepia doctor`: what this machine offers an engine, as plain data and as text. Which providers load is found out by the
// engine process, since the command itself never loads a native library; that part comes in as an argument.
import { readdir, readFile, stat, statfs } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { ProbeResult } from '#worker/protocol.ts'

/** What the engine process says about its engines. */
export type BackendReport = {
  readonly onnxruntimeVersion: string
  readonly providers: readonly { readonly name: string; readonly loads: boolean; readonly reason?: string }[]
  readonly openvino: ProbeResult['openvino']
  /** What `auto` is here, or what the variables ask for. */
  readonly choice: ProbeResult['choice']
}

export type DoctorSettings = { readonly cacheDir: string; readonly cacheLimitBytes: number }

/** Sizes in bytes; null where the system does not tell. */
export type DoctorReport = {
  readonly node: { readonly version: string; readonly path: string }
  readonly system: { readonly platform: string; readonly arch: string; readonly release: string }
  readonly cpu: {
    readonly model: string
    /** Cores that this process may use, and those of the machine. */
    readonly coresUsable: number
    readonly coresTotal: number
    /** Vector instruction sets that the kernels know; null where the system does not tell. */
    readonly instructionSets: readonly string[] | null
  }
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number; readonly limitBytes: number | null }
  readonly cache: {
    readonly folder: string
    readonly exists: boolean
    readonly sizeBytes: number
    readonly limitBytes: number
    readonly freeDiskBytes: number | null
  }
  readonly onnxruntime: BackendReport
}

/** Flags of /proc/cpuinfo (x86 `flags`, arm64 `Features`) that decide which kernels run. */
const knownFlags =
  /^(?:sse4_2|avx|f16c|fma|avx2|avx_vnni|avx512f|avx512bw|avx512vl|avx512_vnni|avx512_bf16|avx512_fp16|amx_\w+|asimd|asimdhp|asimddp|i8mm|bf16|sve|sve2|sme)$/

/** Look at this machine; reads files of the system and the cache folder, starts and changes nothing. */
export async function runDoctor(settings: DoctorSettings, onnxruntime: BackendReport): Promise<DoctorReport> {
  const cacheFolder = path.resolve(settings.cacheDir)
  const constrained = process.constrainedMemory()
  return {
    node: { version: process.version, path: process.execPath },
    system: { platform: process.platform, arch: process.arch, release: os.release() },
    cpu: {
      model: os.cpus()[0]?.model.trim() ?? 'unknown',
      coresUsable: os.availableParallelism(),
      coresTotal: os.cpus().length,
      instructionSets: instructionSets(await readIfThere('/proc/cpuinfo')),
    },
    memory: {
      totalBytes: os.totalmem(),
      availableBytes: availableMemory(await readIfThere('/proc/meminfo')) ?? os.freemem(),
      // 0, or more than there is: no limit by a control group.
      limitBytes: constrained > 0 && constrained < os.totalmem() ? constrained : null,
    },
    cache: {
      folder: cacheFolder,
      exists: await exists(cacheFolder),
      sizeBytes: await folderSize(cacheFolder),
      limitBytes: settings.cacheLimitBytes,
      freeDiskBytes: await freeDisk(cacheFolder),
    },
    onnxruntime,
  }
}

/** The report as lines for a terminal, without a line feed at the end. */
export function renderDoctor(report: DoctorReport): string {
  const { node, system, cpu, memory, cache, onnxruntime } = report
  const cores =
    cpu.coresUsable === cpu.coresTotal ? `${cpu.coresUsable}` : `${cpu.coresUsable} of ${cpu.coresTotal} usable`
  const limit = memory.limitBytes === null ? '' : `, limited to ${formatBytes(memory.limitBytes)} by its control group`
  const free =
    cache.freeDiskBytes === null ? 'free disk unknown' : `${formatBytes(cache.freeDiskBytes)} free on its disk`
  const use = cache.exists ? `${formatBytes(cache.sizeBytes)} of ${formatBytes(cache.limitBytes)} used` : 'not made yet'
  const rows: [string, string][] = [
    ['Node', `${node.version} (${node.path})`],
    ['System', `${system.platform} ${system.arch}, ${system.release}`],
    ['CPU', cpu.model],
    ['Cores', cores],
    [
      'Instructions',
      cpu.instructionSets === null ? 'not told by this system' : cpu.instructionSets.join(' ') || 'none known',
    ],
    ['Memory', `${formatBytes(memory.availableBytes)} available of ${formatBytes(memory.totalBytes)}${limit}`],
    ['Cache', `${cache.folder} (${use}, ${free})`],
    ['onnxruntime', onnxruntime.onnxruntimeVersion],
    ...onnxruntime.providers.map(({ name, loads, reason }): [string, string] => [
      `  ${name}`,
      loads ? 'loads' : `does not load${reason === undefined ? '' : `: ${reason}`}`,
    ]),
    ['OpenVINO', openvinoText(onnxruntime.openvino)],
    ['Precision', choiceText(onnxruntime.choice)],
  ]
  const width = Math.max(...rows.map(([label]) => label.length)) + 2
  return rows.map(([label, value]) => label.padEnd(width) + value).join('\n')
}

function openvinoText(openvino: BackendReport['openvino']): string {
  if (!openvino.works) return openvino.reason.replace(/^openvino: /, '')
  return `${openvino.version.split('-')[0]} in ${openvino.folder}, computes in ${openvino.formats.join(' ')}`
}

function choiceText(choice: BackendReport['choice']): string {
  return 'refusal' in choice ? choice.refusal : `${choice.precision} on ${choice.backend}: ${choice.reason}`
}

/** The vector instruction sets in the text of Linux's /proc/cpuinfo, in the system's order; null without such a text. */
export function instructionSets(cpuinfo: string | null): string[] | null {
  const flags = cpuinfo === null ? null : /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)
  return flags ? flags[1].split(/\s+/).filter((flag) => knownFlags.test(flag)) : null
}

/** MemAvailable of Linux's /proc/meminfo in bytes: unlike free memory it counts file pages that can be dropped. */
export function availableMemory(meminfo: string | null): number | null {
  const kibibytes = meminfo === null ? null : /^MemAvailable:\s*(\d+) kB$/m.exec(meminfo)
  return kibibytes ? Number(kibibytes[1]) * 1024 : null
}

/** A size with three digits and a binary unit: 1536 → "1.50 KiB". */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1)
  const value = bytes / 1024 ** power
  const digits = power === 0 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0
  return `${value.toFixed(digits)} ${units[power]}`
}

async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    // Other systems have no /proc, and sandboxes hide it: the report then says "not told".
    if (isMissing(error)) return null
    throw error
  }
}

async function exists(folder: string): Promise<boolean> {
  try {
    return (await stat(folder)).isDirectory()
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

/** Bytes of all files under `folder`; 0 when it is not there. Files that vanish meanwhile do not count. */
async function folderSize(folder: string): Promise<number> {
  let total = 0
  for (const entry of await listIfThere(folder)) {
    const child = path.join(folder, entry.name)
    if (entry.isDirectory()) total += await folderSize(child)
    else if (entry.isFile()) total += await sizeIfThere(child)
  }
  return total
}

async function listIfThere(folder: string): Promise<{ name: string; isDirectory(): boolean; isFile(): boolean }[]> {
  try {
    return await readdir(folder, { withFileTypes: true })
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

async function sizeIfThere(file: string): Promise<number> {
  try {
    return (await stat(file)).size
  } catch (error) {
    if (isMissing(error)) return 0
    throw error
  }
}

/** Free bytes of the disk that `folder` is on, or will be on once it is made. */
async function freeDisk(folder: string): Promise<number | null> {
  for (let place = folder; ; place = path.dirname(place)) {
    try {
      const { bavail, bsize } = await statfs(place)
      return bavail * bsize
    } catch (error) {
      if (!isMissing(error)) throw error
      if (place === path.dirname(place)) return null
    }
  }
}

/** Not there, not a folder, or not allowed to look: a report says so instead of failing. */
function isMissing(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'ENOENT' || code === 'ENOTDIR' || code === 'EACCES' || code === 'EPERM'
}
