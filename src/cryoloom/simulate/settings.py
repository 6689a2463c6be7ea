"""Settings and declarations of `simulate particles` and `simulate movies`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting

Shape = Literal["globule", "fork", "rod", "tripod", "ring", "shell"]


class SimulateParticlesSettings(Settings):
    """Particle images of known truth."""

    bed: Literal["c1", "d2", "d7", "o", "small", "two", "four", "hinge", "null"] | None = setting(
        None, "A named bed; it sets particle, box and recipe, and every other setting given changes it."
    )
    phantom: Shape | None = setting(
        None, "A built-in structure in place of a model; with a bed, any value means the bed's own phantom."
    )
    symmetry: str | None = setting(None, "Point group of the particle; that of the phantom, or C1, if not given.")
    mass: float = setting(400.0, "Mass of a phantom.", unit="kDa", gt=5, le=50_000)
    variant: int = setting(0, "Another number gives another phantom of the same kind.", ge=0, expert=True)
    particles: int | None = setting(None, "Number of images.", ge=1)
    pixel_size: float | None = setting(None, "Size of a pixel; 1.5 Å if not given.", unit="Å", gt=0.1, le=20)
    box: int | None = setting(
        None, "Side of the images; 1.35 times the particle if not given.", unit="pixel", ge=16, le=2048
    )
    snr: float | None = setting(
        None,
        "Variance of the modulated particle inside its circle over the variance of the noise; 0.05 if not given.",
        ge=0,
        le=1e4,
    )
    junk: float | None = setting(None, "Share of images without a particle; 0.1 if not given.", ge=0, lt=1)
    preferred: float | None = setting(None, "Share of particles that lie with their z axis along the beam.", ge=0, le=1)
    voltage_kv: float = setting(300.0, "Acceleration voltage.", unit="kV", gt=20, le=1500)
    cs_mm: float = setting(2.7, "Spherical aberration.", unit="mm", ge=0, le=20)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast.", ge=0, le=0.5)
    phase_shift_deg: float = setting(0.0, "Phase shift of a phase plate.", unit="°", ge=0, le=180)
    beam_tilt_x_mrad: float = setting(0.0, "Beam tilt along x.", unit="mrad", expert=True, ge=-20, le=20)
    beam_tilt_y_mrad: float = setting(0.0, "Beam tilt along y.", unit="mrad", expert=True, ge=-20, le=20)
    defocus_min: float | None = setting(None, "Smallest underfocus; 8,000 Å if not given.", unit="Å", gt=-1e5, le=2e5)
    defocus_max: float | None = setting(None, "Largest underfocus; 22,000 Å if not given.", unit="Å", gt=-1e5, le=2e5)
    astigmatism: float = setting(500.0, "Largest difference of the two defoci of a micrograph.", unit="Å", ge=0)
    height: float = setting(300.0, "Particles lie up to plus or minus this high.", unit="Å", ge=0, le=5000)
    shift: float = setting(6.0, "Particles lie up to plus or minus this off centre.", unit="Å", ge=0, le=200)
    bfactor: float = setting(60.0, "Envelope of the microscope and the ice.", unit="Å²", ge=0, le=1000)
    ewald: bool = setting(False, "Curve the Ewald sphere.", expert=True)


SIMULATE_PARTICLES = StageDeclaration(
    name="simulate particles",
    help="Make particle images of known truth from a model, a map, a built-in phantom or a named bed.",
    settings=SimulateParticlesSettings,
    function="cryoloom.simulate.stage:simulate_particle_images",
    inputs=(
        Input("model", "model", "PDB or mmCIF file; its first biological assembly is imaged.", required=False),
        Input("map", "map", "A map to image in place of a model.", required=False),
    ),
    writes={
        "particles": "the images as a pipeline may see them: micrographs, and the CTF of each",
        "truth": "the same rows with all that is true of them",
        "truth_map": "the map that was imaged (of several states the first)",
    },
)


class SimulateMoviesSettings(Settings):
    """Movies of known truth."""

    phantom: Shape | None = setting(None, "A built-in structure in place of a model; globule if neither is given.")
    symmetry: str | None = setting(None, "Point group of the particle; that of the phantom, or C1, if not given.")
    mass: float = setting(400.0, "Mass of a phantom.", unit="kDa", gt=5, le=50_000)
    variant: int = setting(0, "Another number gives another phantom of the same kind.", ge=0, expert=True)
    movies: int = setting(12, "Number of movies.", ge=1, le=100_000)
    width: int = setting(1536, "Columns of a frame.", unit="pixel", ge=256, le=16384)
    height: int = setting(1536, "Rows of a frame.", unit="pixel", ge=256, le=16384)
    frames: int = setting(24, "Frames of a movie.", ge=1, le=10_000)
    pixel_size: float = setting(1.2, "Size of a pixel.", unit="Å", gt=0.1, le=10)
    dose_per_frame: float = setting(1.5, "Electrons on one Å² in one frame.", unit="e⁻/Å²", gt=0, le=100)
    particles: int | None = setting(None, "Particles on a micrograph; half of what fits if not given.", ge=0)
    preferred: float = setting(0.0, "Share of particles that lie with their z axis along the beam.", ge=0, le=1)
    voltage_kv: float = setting(300.0, "Acceleration voltage.", unit="kV", gt=20, le=1500)
    cs_mm: float = setting(2.7, "Spherical aberration.", unit="mm", ge=0, le=20)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast.", ge=0, le=0.5)
    phase_shift_deg: float = setting(0.0, "Phase shift of a phase plate.", unit="°", ge=0, le=180)
    defocus_min: float = setting(8_000.0, "Smallest underfocus.", unit="Å", gt=-1e5, le=2e5)
    defocus_max: float = setting(25_000.0, "Largest underfocus.", unit="Å", gt=-1e5, le=2e5)
    astigmatism: float = setting(500.0, "Largest difference of the two defoci of a micrograph.", unit="Å", ge=0)
    drift: float = setting(30.0, "Typical length of the common motion over the exposure.", unit="Å", ge=0, le=1000)
    doming: float = setting(8.0, "Typical local motion at the edge of the frame.", unit="Å", ge=0, le=200)
    bfactor: float = setting(60.0, "Envelope of the microscope and the ice.", unit="Å²", ge=0, le=1000)
    ice_thickness: float = setting(400.0, "Thickness of the ice.", unit="Å", ge=50, le=5000)
    contamination: float = setting(2.0, "Mean number of ice crystals and aggregates on a micrograph.", ge=0, le=100)
    carbon: float = setting(0.15, "Share of movies that show the edge of the carbon film.", ge=0, le=1)
    bad: float = setting(0.0, "Share of movies spoilt by drift within the frames and without particles.", ge=0, le=1)
    damage: bool = setting(True, "Structures fade with exposure, fine detail first.", expert=True)
    gain: bool = setting(True, "Frames carry the gain of the camera, with dead and hot pixels.")
    mtf: bool = setting(True, "The detector blurs (its MTF file is written).", expert=True)
    format: Literal["tiff", "mrc", "eer"] = setting("tiff", "File format of the movies.")


SIMULATE_MOVIES = StageDeclaration(
    name="simulate movies",
    help="Make movies of known truth from a model or a built-in phantom, with motion, damage, ice, gain and dirt.",
    settings=SimulateMoviesSettings,
    function="cryoloom.simulate.stage:simulate_movie_files",
    inputs=(Input("model", "model", "PDB or mmCIF file; its first biological assembly is imaged.", required=False),),
    writes={
        "movies": "the movies as they come from the camera",
        "truth": "every particle: position, pose, defocus at its height",
        "truth_micrographs": "every micrograph: defocus, motion",
        "truth_map": "the map that was imaged",
    },
)
