// x64 processors without VNNI multiply bytes in pairs and add each pair in 16 bits, where 255 · 127 · 2 overflows.
import { readFile } from 'node:fs/promises'

/** What Linux calls the instructions that add four products of bytes in 32 bits. */
const vnni = /\b(?:avx512_vnni|avx_vnni)\b/

/**
 * Largest absolute value of a rounded weight that this machine's kernels add up exactly. `cpuinfo` is the text of Linux's
 * /proc/cpuinfo; without it an x64 processor counts as one that overflows.
 */
export function weightLimit(architecture: string, cpuinfo: string): 127 | 64 {
  return architecture !== 'x64' || vnni.test(cpuinfo) ? 127 : 64
}

/** The limit on this machine. */
export async function machineWeightLimit(): Promise<127 | 64> {
  let cpuinfo = ''
  try {
    cpuinfo = await readFile('/proc/cpuinfo', 'utf8')
  } catch (error) {
    // Other systems have no such file.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  return weightLimit(process.arch, cpuinfo)
}
