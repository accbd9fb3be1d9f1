"""Healing: damaged commits are set aside before a run, which trains them again."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from orchestrator.records.damage import forget_damage, noted_damage
from trainables.store import Damaged, Store
from trainables.store.claims import Claims


def set_damaged_aside(store: Store, paths: Iterable[str]) -> list[Damaged]:
    """Move the damaged ones of the commits `paths` to quarantine; what was wrong with each.

    Those that another run is at are left to it."""

    def is_damaged(path: str) -> bool:
        return next(store.damage(path), None) is not None

    paths, noted = list(paths), noted_damage(store)
    with ThreadPoolExecutor() as pool:
        suspects = [path for path, bad in zip(paths, pool.map(is_damaged, paths), strict=True)
                    if bad]  # fmt: skip
    for path in noted.intersection(paths).difference(suspects):
        forget_damage(store, path)
    if not suspects:
        return []
    # Here, as it imports torch.
    from trainables.lineage.loop import set_aside_damaged

    claims = Claims(store)
    found = {path: set_aside_damaged(path, claims) for path in suspects}
    healed = {path: damage for path, damage in found.items() if damage is not None}
    for path in noted & healed.keys():
        forget_damage(store, path)
    return list(healed.values())
