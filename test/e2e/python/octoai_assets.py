"""What OctoAI's official client for Python does with assets: `octoai_assets.py URL TOKEN INVERSION VAE` prints it as JSON."""

import json
import sys
import time

import octoai.uploading_asset_library as uploading
from octoai.asset_library import Data_TextualInversion, Data_Vae
from octoai.client import OctoAI
from octoai.environment import OctoAIEnvironment

url, token, inversion, vae = sys.argv[1:]
environment = OctoAIEnvironment(default=url, image_gen=url, text_gen=url)
octo = OctoAI(environment=environment, api_key=token)
engine = "image/stable-diffusion-xl-v1-0"


class Hurry:
    """It sleeps ten seconds between two looks, which a test has no time for."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(lambda _seconds: time.sleep(0.2))


uploading.time = Hurry
library = octo.asset_library
by_url = library.create_from_file(
    inversion, Data_TextualInversion(engine=engine, trigger_words=["zorb"]), "python-inversion"
)
by_sts = library.create_from_file(vae, Data_Vae(engine=engine), "python-vae", transfer_api_type="sts")
listed = library.list(name="python-vae")
deleted = library.delete(by_sts.id)
print(
    json.dumps(
        {
            "by_url": {"status": by_url.status, "triggers": by_url.data.trigger_words, "size": by_url.size_bytes},
            "by_sts": {"status": by_sts.status, "type": by_sts.data.data_type, "public": by_sts.is_public},
            "listed": [asset.id == by_sts.id for asset in listed.data],
            "deleted": deleted.id == by_sts.id,
            "left": library.list().total,
        }
    )
)
