import type { Backend } from '../backend.ts'
import { bindWeights } from '../onnx/bind-weights.ts'
import { GraphBuilder } from '../onnx/graph-builder.ts'

/** Run a one-node graph; throws `device_unavailable` where the backend's device does not work. */
export async function tryBackend(backend: Backend): Promise<void> {
  const g = new GraphBuilder('probe', 'fp32')
  g.output('y', g.input('x', [1]))
  const model = bindWeights(g.finish(), new Map())
  await using session = await backend.create(model, {
    weightsInPlace: false,
    keepActivations: false,
    arithmetic: 'graph',
  })
  await session.run({ x: { shape: [1], data: new Float32Array(1) } })
}
