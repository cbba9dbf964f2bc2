"""The automation that sends a verdict to a notification block of the user. It does nothing else."""

import logging
from typing import TYPE_CHECKING

from tasks.errors import InputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

NAME = "undrift: send verdicts"
"""The automation's name; there is one for each Prefect server."""
EVENTS = ("undrift.loss.*", "undrift.run.*")

_SUBJECT = "{{ event.event }}: {{ event.resource.name }}"
_BODY = """{{ event.payload.says }}

cause: {{ event.payload.cause }}
clients: {{ event.payload.clients | join(", ") }}
round: {{ event.payload.round }}
report: {{ event.payload.report }}
flow run: {{ flow_run | ui_url or event.resource.name }}
"""

_log = logging.getLogger(__name__)


def register_notification(block: str) -> None:
    """Registers the automation that sends each verdict to `block`, which is `type/name`, such as `slack-webhook/ops`.

    If the automation exists, only its block is changed: it keeps its texts, and stays off if a user switched it off.

    Raises:
        InputError: there is no such block, or it is no notification block.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    with get_client(sync_client=True) as client:
        document = _notification_block(client, block)
        existing = client.read_automations_by_name(NAME)
        if existing:
            kept = [action for action in existing[0].actions if isinstance(action, SendNotification)]
            texts = {"subject": kept[0].subject, "body": kept[0].body} if kept else {"subject": _SUBJECT, "body": _BODY}
            # An update sends only the fields that are set, and the server needs the type.
            actions = [SendNotification(type="send-notification", block_document_id=document.id, **texts)]
            core = AutomationCore(
                **existing[0].model_dump(exclude={"id", "actions", "owner_resource"}), actions=actions
            )
            client.update_automation(existing[0].id, core)
        else:
            core = AutomationCore(
                name=NAME,
                description="Sends the verdict of a pipeline run: a loss that rose, is too high or is worse, or a run "
                "that ended.",
                # Each verdict is its own trigger: without for_each, several at once would be sent as one.
                trigger=EventTrigger(expect=set(EVENTS), for_each={"prefect.resource.id"}, threshold=1),
                actions=[SendNotification(block_document_id=document.id, subject=_SUBJECT, body=_BODY)],
            )
            client.create_automation(core)
    _log.info("automation %s: sends %s to the block %s", NAME, " and ".join(EVENTS), block)


def _notification_block(client: "SyncPrefectClient", block: str) -> "BlockDocument":
    """Returns the block document; raises InputError if there is none that can notify."""
    from prefect.exceptions import ObjectNotFound

    kind, separator, name = block.partition("/")
    if not (kind and separator and name):
        raise InputError(
            f"--notify must be TYPE/NAME of a notification block, such as slack-webhook/ops, got {block!r}"
        )
    try:
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as exc:
        raise InputError(
            f"--notify: there is no block {block!r} on the Prefect server: create it on the page Blocks, or see the "
            "names with `prefect block ls`"
        ) from exc
    if "notify" not in (document.block_schema.capabilities if document.block_schema else ()):
        raise InputError(f"--notify must name a notification block, got {block!r}, which cannot send notifications")
    return document
