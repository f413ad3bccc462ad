import { onnxruntimeVersion, probeProviders } from '#engine/backends/onnxruntime.ts'
import { AppError } from '../errors.ts'
import { lookForOpenvino, resolveChoice, type FoundOpenvino } from './engine-choice.ts'
import type { EngineSettings, OpenvinoProbe, ProbeResult } from './protocol.ts'

/** What both engines can do in this process, and what the settings choose. */
export async function probeEngines(settings: EngineSettings): Promise<ProbeResult> {
  const openvino = await lookForOpenvino(settings)
  return {
    onnxruntimeVersion,
    providers: await probeProviders(),
    openvino: openvinoProbe(openvino),
    choice: choiceOf(settings, openvino),
  }
}

function openvinoProbe(found: FoundOpenvino): OpenvinoProbe {
  if (found === null) return { works: false, reason: 'not found; "sepia backend install openvino" fetches it' }
  if ('fault' in found) return { works: false, reason: found.fault.message }
  const { formats, place, version } = found
  return {
    works: true,
    version,
    folder: place.folder,
    formats: [...formats].filter((format) => /^[A-Z]+\d+$/.test(format)).sort(),
  }
}

function choiceOf(settings: EngineSettings, openvino: FoundOpenvino): ProbeResult['choice'] {
  try {
    return resolveChoice(settings, openvino)
  } catch (error) {
    if (error instanceof AppError) return { refusal: error.message }
    throw error
  }
}
