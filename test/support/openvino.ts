// OpenVINO for tests, where .ci/run installs it: "npx sepia backend install openvino --data node_modules/.cache/sepia-openvino".
import { fileURLToPath } from 'node:url'
import type { Backend, BackendName } from '#engine/backend.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { openvinoBackend, openvinoCapabilities } from '#engine/backends/openvino.ts'
import { findOpenvino, type OpenvinoPlace } from '#engine/backends/openvino-places.ts'

const dataDir = fileURLToPath(new URL('../../node_modules/.cache/sepia-openvino', import.meta.url))

/** The folder with the libraries. */
export const openvinoFolder: string = process.env['SEPIA_TEST_OPENVINO'] ?? `${dataDir}/openvino`

/** The libraries; a test that needs them fails where they are not. */
export function testOpenvino(): OpenvinoPlace {
  const place = findOpenvino([openvinoFolder], [])
  if (place) return place
  throw new Error(`${openvinoFolder} has no OpenVINO: npx sepia backend install openvino --data ${dataDir}`)
}

/** Settings of an engine that computes on OpenVINO. */
export const onOpenvino = { backend: 'openvino', openvinoFolders: [openvinoFolder] } as const

/** A backend on this machine's CPU. */
export function testBackend(name: BackendName): Backend {
  const options = { device: 'cpu', threads: 2, externalDataRoot: '/' } as const
  return name === 'onnxruntime' ? onnxruntimeBackend(options) : openvinoBackend({ ...options, place: testOpenvino() })
}

/** Whether this CPU computes in bf16; where it does not, tests of bf16 say so and show nothing. */
export function hasBf16(): boolean {
  return openvinoCapabilities(testOpenvino(), 'cpu').formats.has('BF16')
}
