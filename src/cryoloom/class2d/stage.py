"""Stage `class2d`: views of the particles found without a model, averaged, judged, and the good ones selected."""

import numpy as np
import torch

from cryoloom.class2d.classify import classify
from cryoloom.class2d.extent import estimate_diameter
from cryoloom.class2d.quality import ClassQuality, judge_classes, particle_junk
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.settings import CLASS2D, Class2DSettings
from cryoloom.class2d.state import Plan, State, load_state, save_state
from cryoloom.class2d.sums import RingImages, class_samples, ring_correlation, smooth_correlation
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet
from cryoloom.em.extent import particle_extent
from cryoloom.em.groups import noise_groups
from cryoloom.em.images import ImageSource
from cryoloom.em.place import Place
from cryoloom.em.rings import plan_rings
from cryoloom.io.class_table import write_class_table
from cryoloom.io.mrc import write_mrc
from cryoloom.io.particles import ParticleImages


@stage(CLASS2D)
def classify_particles(particles: ParticleSet, settings: Class2DSettings, run: Run) -> dict[str, ParticleSet]:
    """Classify particles, write the class averages, and select the particles of good classes."""
    if len(particles) < 20:
        raise InputError(f"The set holds {len(particles)} particles; 2D classification needs at least 20.")
    reader = ParticleImages(particles)
    box, pixel_size = reader.shape[1], float(particles.optics[0].pixel_size)
    field = box * pixel_size
    diameter = settings.mask_diameter
    if diameter is None:
        diameter = estimate_diameter(reader, len(particles), pixel_size)
        run.log(f"mask diameter from the images: {diameter:.0f} Å")
    diameter = min(diameter, 0.95 * field)
    plan = make_plan(settings, len(particles), diameter, box, pixel_size)
    groups = noise_groups(particles, settings.noise)
    images = ImageSource(reader, particles, diameter, noise_group=groups, cache_bytes=0, place=Place(run.devices))
    last_ring = max(min(box // 2 - 1, int(field / settings.resolution_limit)), plan.first_radius)
    rings = plan_rings(box, last_ring, plan.diameter_px)
    source = RingSource(images, rings, use_ctf=settings.ctf, cache_bytes=min(1 << 30, run.memory_budget // 4))
    path = run.checkpoint("classes.npz")
    state = load_state(path) if path.exists() else None
    if state is not None:
        run.log(f"goes on after iteration {state.iteration}")
    with run.progress(plan.n_iterations + 1, "2D classes") as progress:
        progress.advance(0 if state is None else state.iteration)

        def after(state: State) -> None:
            line = state.history[-1]
            run.log(
                f"iteration {state.iteration}: {field / line['radius']:.1f} Å, mean correlation of the halves "
                f"{line['mean_frc']:.2f}, mean gain {state.gain[state.class_index >= 0].mean():.1f}"
            )
            save_state(path, state)
            progress.advance(1)

        def work(start: State | None) -> State:
            return classify(source, plan, run.executor, run.generator("class2d"), state=start, on_iteration=after)

        # as one chunk, so that libraries do not spread the small products between the parallel parts over threads
        state = next(iter(run.executor.map(work, [state])))
    averages, quality = judged_averages(source, plan, state)
    junk = particle_junk(quality.good, state.class_index, state.member)
    return _results(particles, averages.numpy(), state, quality, junk, settings, run, pixel_size, diameter)


def judged_averages(source: RingSource, plan: Plan, state: State) -> tuple[torch.Tensor, ClassQuality]:
    """Class averages `(n, box, box)`, filtered by the agreement of their halves, and how good each is."""
    rings, box = source.plan, source.images.box
    correlation = smooth_correlation(rings, ring_correlation(rings, state.sums), state.sums.total)
    pictures = RingImages(rings, box)
    samples = class_samples(rings, state.sums, 2 * correlation / (1 + correlation))
    averages = pictures.images(samples, 0.5 * plan.diameter_px)
    count = torch.from_numpy(np.bincount(state.class_index, minlength=plan.n_classes))
    field = source.images.field
    quality = judge_classes(averages, correlation, rings.radii, state.radius, count, plan.diameter_px, field)
    return averages, quality


def make_plan(settings: Class2DSettings, n: int, diameter: float, box: int, pixel_size: float) -> Plan:
    """Numbers that the user left to the program."""
    classes = settings.classes or int(np.clip(round(0.6 * n**0.5), 4, 200))
    shift_range = 0.1 * diameter if settings.shift_range is None else settings.shift_range
    operands = settings.operands
    if operands == "auto":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        operands = "bfloat16" if supported is not None and supported() else "float32"
    first = max(4, round(box * pixel_size / 40.0))
    return Plan(
        n_classes=min(classes, max(1, n // 5)),
        diameter_px=diameter / pixel_size,
        n_iterations=settings.iterations,
        batch_size=settings.batch_size or max(100 * classes, 2000),
        shift_range_px=shift_range / pixel_size,
        first_radius=min(first, box // 2 - 2),
        robust=settings.robust,
        dtype=torch.bfloat16 if operands == "bfloat16" else torch.float32,
    )


def _results(
    particles: ParticleSet,
    averages: np.ndarray,
    state: State,
    quality: ClassQuality,
    junk: np.ndarray,
    settings: Class2DSettings,
    run: Run,
    pixel_size: float,
    diameter: float,
) -> dict[str, ParticleSet]:
    # classes are numbered from the largest good one down
    order = np.lexsort((-quality.count, quality.good < settings.select))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(1, len(order) + 1)
    selected_classes = order[(quality.good[order] >= settings.select)]
    described = particles.replace(
        class_number=number[state.class_index],
        psi=-state.psi,
        shift=state.shift_px * pixel_size,
        log_likelihood=state.gain.copy(),
        posterior_max=state.posterior.copy(),
        n_significant=state.sharers.copy(),
        junk_score=junk,
    )
    keep = np.isin(state.class_index, selected_classes) & (junk < 1.0 - 0.5 * settings.select)
    selected = described.select(np.flatnonzero(keep))
    averages = averages[order].astype(np.float32)
    write_mrc(run.folder / "class_averages.mrcs", averages, pixel_size)
    if len(selected_classes):
        write_mrc(run.folder / "class_averages_selected.mrcs", averages[: len(selected_classes)], pixel_size)
    write_class_table(
        run.folder / "classes.star",
        averages="class_averages.mrcs",
        fraction=quality.fraction[order],
        resolution=quality.resolution[order],
        figures={
            "count": quality.count[order].astype(np.int64),
            "good": quality.good[order],
            "agreement": quality.agreement[order],
            "contrast": quality.contrast[order],
            "rim": quality.rim[order],
            "brightness": quality.brightness[order],
            "offset": quality.offset[order],
        },
        reasons=[quality.reasons[c] for c in order],
    )
    good = averages[: len(selected_classes)]
    extent = particle_extent(good, quality.count[order][: len(selected_classes)], pixel_size)
    labels = [
        f"{i + 1}: {quality.count[c]:.0f}, {quality.resolution[c]:.0f} Å, {quality.good[c]:.2f}"
        for i, c in enumerate(order)
    ]
    run.show(
        Figure(
            "class_averages", "gallery", "Class averages",
            "Each with its particles, the resolution to which its halves agree, and the probability of being good.",
            data={"images": averages, "labels": labels},
        )
    )  # fmt: skip
    run.show(Figure("junk", "histogram", "Probability of being junk", x_label="probability", data={"values": junk}))
    share = quality.fraction[quality.fraction > 0]
    entropy = float(-(share * np.log(share)).sum())
    reasons = []
    if not len(selected_classes):
        against = sorted({reason for some in quality.reasons for reason in some})
        reasons.append("No class looks like a particle: " + "; ".join(against[:4]) + ".")
    run.summarise(
        verdict="found" if len(selected) else "not found",
        reasons=reasons,
        n_in=len(particles),
        n_out=len(selected),
        classes=len(order),
        classes_selected=len(selected_classes),
        size_entropy=round(entropy, 3),
        effective_classes=round(float(np.exp(entropy)), 1),
        mask_diameter=round(diameter, 1),
        particle_diameter=None if extent is None else round(extent, 1),
        best_resolution=round(float(quality.resolution[selected_classes].min()), 2) if len(selected_classes) else None,
        junk_fraction=round(float(1 - len(selected) / len(particles)), 4),
        pixel_size=pixel_size,
    )
    return {"particles": described, "selected": selected}
