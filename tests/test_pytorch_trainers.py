"""The callbacks for Lightning and Hugging Face, in the real trainers: they floss, log, and resume to the bit."""

import types
import warnings

import pytest

import flossing as fl
from tests.pytorch_settings import one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
QUICK = {"preflossing": 2, "epochs": 1, "every": 2, "k": 3, "window": 8, "report": False, "threshold": 1e9}
QUICK["term"] = fl.FlossingTerm(every=3)

# The warnings of these packages are about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        x = torch.randn(10, 2, generator=torch.Generator().manual_seed(index))
        return {"x": x, "labels": x.sum(-1, keepdim=True)}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x, labels):
        return {"loss": (self.out(self.rnn(x)[0]) - labels).square().mean()}


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def lightning_fit(folder, epochs, checkpoint=None, accumulate=1):
    lightning = pytest.importorskip("pytorch_lightning")
    from flossing.pytorch.lightning import FlosserCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Network()

        def training_step(self, batch, index):
            return self.network(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    torch.manual_seed(0)
    module, callback = Module(), FlosserCallback(**QUICK)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[callback],
        accelerator="cpu",
        default_root_dir=folder,
        logger=lightning.loggers.CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    loader = torch.utils.data.DataLoader(Data(), batch_size=4)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    saved = folder / "checkpoint.ckpt"
    trainer.save_checkpoint(saved)
    return module, callback, saved


def test_lightning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, callback, _ = lightning_fit(tmp_path / "long", 2)
        _, _, saved = lightning_fit(tmp_path / "short", 1)
        resumed, again, _ = lightning_fit(tmp_path / "resumed", 2, saved)
    assert callback.flosser.steps == 8
    assert callback.flosser.scalars()["flossing/epochs"] == again.flosser.scalars()["flossing/epochs"] == 5
    assert_equal(weights(module), weights(resumed))
    assert callback.flosser.scalars()["flossing/term"] == again.flosser.scalars()["flossing/term"] > 0
    assert "flossing/reach" in (tmp_path / "long" / "lightning_logs" / "version_0" / "metrics.csv").read_text()


def test_lightning_that_accumulates(tmp_path):
    """Steps are those of the optimiser: 4 batches of 4 are 2 steps in each of 3 epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, callback, _ = lightning_fit(tmp_path, 3, accumulate=2)
    assert callback.flosser.steps == 6 and callback.flosser.scalars()["flossing/term"] > 0


def hugging_face_train(folder, steps, resume=None, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from flossing.pytorch.huggingface import FlosserCallback

    torch.manual_seed(0)
    model, callback = Network(), FlosserCallback(**QUICK, **options)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        lr_scheduler_type="constant",
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=Data(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return model, callback, trainer


def test_hugging_face(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, callback, trainer = hugging_face_train(tmp_path / "long", 8)
        hugging_face_train(tmp_path / "short", 4)
        resumed, again, _ = hugging_face_train(tmp_path / "short", 8, True)
        elsewhere, _, _ = hugging_face_train(tmp_path / "other", 8, str(tmp_path / "short" / "checkpoint-4"),
                                             resume_from=tmp_path / "short" / "checkpoint-4")  # fmt: skip
        with pytest.raises(ValueError, match="resume_from must name the checkpoint .* of step 8, not 4"):
            hugging_face_train(tmp_path / "third", 8, str(tmp_path / "short" / "checkpoint-4"),
                               resume_from=tmp_path / "long" / "checkpoint-8")  # fmt: skip
        (tmp_path / "short" / "checkpoint-4" / "flossing.pt").unlink()
        with pytest.raises(ValueError, match="must name the checkpoint to resume from, with flossing.pt"):
            hugging_face_train(tmp_path / "short", 8, str(tmp_path / "short" / "checkpoint-4"))
    assert callback.flosser.steps == again.flosser.steps == 8
    assert callback.flosser.scalars()["flossing/epochs"] == again.flosser.scalars()["flossing/epochs"] == 5
    assert_equal(weights(model), weights(resumed))
    assert_equal(weights(model), weights(elsewhere))
    assert callback.flosser.scalars()["flossing/term"] == again.flosser.scalars()["flossing/term"] > 0
    assert trainer.state.log_history[-2]["flossing/epochs"] == 5


def test_a_term_beside_scaled_gradients_is_refused():
    pytest.importorskip("transformers")
    from flossing.pytorch.huggingface import FlosserCallback

    arguments, state = types.SimpleNamespace(fp16=True, max_grad_norm=0.0), types.SimpleNamespace(global_step=0)
    callback = FlosserCallback(**QUICK)
    with pytest.raises(ValueError, match=r"max_grad_norm must be above 0 with fp16 .*, got max_grad_norm=0.0"):
        callback.on_train_begin(arguments, state, None, model=Network())
    arguments.max_grad_norm = 1.0
    callback.on_train_begin(arguments, state, None, model=Network())
