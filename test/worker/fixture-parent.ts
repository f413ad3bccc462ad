// A parent with a busy engine process; prints the number of that process when the task runs.
import { EngineProcess } from '#worker/engine-process.ts'
import { engineSettings, fixtureEntry, taskFor } from './fixture-task.ts'

const engine = await EngineProcess.start(engineSettings(process.argv[2]), { entry: fixtureEntry })
const onProgress = ({ phase }: { phase: string }): void => {
  if (phase === 'load') process.stdout.write(`${engine.pid}\n`)
}
await engine.generate(
  taskFor(process.argv[3]),
  { checkpoint: '', refiner: null, pictures: {}, assets: {} },
  { onProgress },
)
