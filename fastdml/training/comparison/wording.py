"""What a comparison does, in sentences made from its protocol.json; table and page say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastdml.training.comparison.cells import Cell


def protocol_points(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol as (title, sentence)."""
    settings, classes = header["settings"], header["classes"]
    perturbed = "their images, perturbed once like those of training," if settings["augment"] else "them"
    images = settings["steps"] * settings["batch"]
    return [
        (
            "The same for all losses",
            f"Network (width {settings['network_width']}, {settings['embedding_dim']}-d), initial weights, "
            f"{'augmentation' if settings['augment'] else 'no augmentation'}, AdamW with a peak rate of "
            f"{settings['learning_rate']:g} and a weight decay of {settings['weight_decay']:g}, "
            f"{settings['warmup_steps']} steps of warm-up and a cosine down, {settings['steps']} steps of "
            f"{settings['batch']} images ({images} in all), and seeds.",
        ),
        (
            "Not the same",
            "How many classes a batch holds: losses with learnt centres move only those of the classes that "
            "they see, so most of them get more. The table's column says how a batch is divided. Centres "
            "learn at a multiple of the network's rate, which belongs to the loss.",
        ),
        (
            "Hyper-parameters",
            "Fixed beforehand, in the catalogue of losses; nothing is tuned here. Losses without learnt "
            "centres have their defaults or a paper's. Scales, margins, weights and rates of those with "
            "learnt centres, of FAT and of the clustering loss had been chosen for a few hundred steps on "
            "the built-in data, on held-out training classes.",
        ),
        (
            "Choosing a checkpoint",
            f"{classes['validation']} of the {classes['validation'] + classes['training']} training classes, "
            f"drawn by the seed, are never trained on. Recall@1 among {perturbed} is measured "
            f"{settings['evaluations']} times, the last step included, and the weights of the best are kept, "
            "of equal ones the later.",
        ),
        (
            "The test",
            f"Those weights alone are measured, once, on {classes['test']} other classes: Recall@K by cosine "
            "similarity, and NMI of a k-means (faiss, 20 iterations, as many clusters as classes, seed "
            f"{settings['kmeans_seed']}). Nothing is chosen by it.",
        ),
        (
            "The figures",
            "Mean and standard deviation over seeds. A seed is another set of held-out classes, other "
            "initial weights, batches and augmentation. A loss that gave a NaN or an infinity counts as "
            "failed and is listed as such.",
        ),
    ]


def machine_facts(header: Mapping[str, Any], cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Device, versions, backends and commits as (name, value)."""
    machine = header["machine"]
    facts = [
        ("device", str(header["device"])),
        ("processor", f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        *((name, str(value)) for name, value in header["versions"].items()),
        ("backend of the losses", ", ".join(sorted({cell.backend for cell in cells})) or "-"),
    ]
    commits = sorted({cell.commit for cell in cells if cell.commit})
    return [*facts, ("commit", ", ".join(commits))] if commits else facts
