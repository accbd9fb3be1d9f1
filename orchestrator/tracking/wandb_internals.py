"""wandb's private parts: all that is used of them, and why nothing public does it.

Each imports wandb, which `service.wandb` is to have told to be quiet.
"""

from typing import Any


def server_url() -> str:
    """The URL of W&B's server, as its variables and files of settings say. Raises what is wrong
    with them.

    `wandb.Settings()` looks at neither, and `wandb.setup()` starts the service process to tell.
    """
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings.base_url


def has_key(server: str) -> bool:
    """Whether W&B finds a key for `server` where it looks for one. Raises what is wrong with it.

    `wandb.login(prompt=False)` asks the server too, keeps what it finds for the whole process,
    rewrites the user's file of settings, and finds nothing in offline mode.
    """
    from wandb.sdk.lib import wbauth

    found = wbauth.authenticate_session(
        host=server, source="prunesweep", prompt=False, update_session=False
    )
    return found is not None


def do_not_wait() -> None:
    """Take back that this process ends W&B's service, and waits for it, when it ends.

    `wandb.teardown()`, which is public, is what waits.
    """
    from wandb.sdk import wandb_setup

    connection: Any = wandb_setup.singleton()._connection
    if connection is not None and connection._cleanup is not None:
        connection._cleanup()
